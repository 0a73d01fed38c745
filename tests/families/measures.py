"""What the laws of families compare with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import NetworkConfig, StudentConfig, TeacherConfig
from pipeline.models.denoiser import Denoiser
from pipeline.models.loading import load_teacher
from pipeline.models.network import Network
from pipeline.models.sampling import sample_student
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.families.builder import Builder

NETWORK = NetworkConfig(channels=(8, 16), attention=(False, True), norm_groups=4)
LORA = {"rank": 4, "alpha": 6.0}
UNREAD = ("generation_config.json", "processor_config.json")
"""Files of a model that change no image: how an encoder would write, and how it would see."""


def networks(folder: Path) -> list[Path]:
    """The files with the weights of all parts."""
    return sorted(folder.rglob("*.safetensors"))


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two values, to their spread and the value itself."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    return float(((ours - theirs).abs() / (theirs.std() + theirs.abs())).max())


def close(ours: Tensor, theirs: Tensor, bar: float) -> None:
    assert distance(ours, theirs) <= bar


def error(found: Tensor, expected: Tensor) -> float:
    """The largest, to the largest value: at t = 999 what is read as x0 may be far above 1."""
    return float((found - expected).abs().max() / expected.abs().max())


def learnt(network: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in network.named_parameters() if v.requires_grad}


@torch.no_grad()
def perturbed(network: Network, by: float) -> Network:
    rng = torch.Generator().manual_seed(3)
    for weight in learnt(network).values():
        weight.add_(by * torch.randn(weight.shape, generator=rng))
    return network


def adapted(teacher: Denoiser, kind: type = StudentConfig, seed: int = 0, **lora: Any) -> Network:
    return new_student(teacher, NETWORK, seed, kind(lora={**LORA, **lora}))


def size(*networks: nn.Module) -> int:
    """Bytes of all tensors of networks, each counted once."""
    values = [v for each in networks for v in (*each.parameters(), *each.buffers())]
    return sum({v.data_ptr(): v.numel() * v.element_size() for v in values if v.numel()}.values())


def off(counted: float, found: float) -> float:
    """The share by which a count differs from what is there."""
    return abs(counted - found) / found if found else float(counted != 0)


def apart_times(network: Denoiser) -> Tensor:
    """Of two rows: one of less, one of more noise."""
    return network.schedule.start * torch.tensor([0.4, 0.9])


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The share of tensors that are not what they were; 0 if one is not finite."""
    assert before.keys() == after.keys()
    finite = all(value.isfinite().all() for value in after.values())
    moved = [not torch.equal(value, after[name]) for name, value in before.items()]
    return finite * sum(moved) / len(moved)


def guidable(teacher: Denoiser) -> bool:
    try:
        teacher.conditioner.null(1)
    except UserError:
        return False
    return True


def made_by(network: Denoiser, builder: Builder) -> Tensor:
    """A student's x0."""
    return sample_student(network, builder.noise(), builder.labels_of(network))


def refused(config: TeacherConfig) -> str:
    """The one line with which a teacher is refused."""
    with pytest.raises(UserError) as found:
        load_teacher(config)
    assert "\n" not in str(found.value)
    return str(found.value)
