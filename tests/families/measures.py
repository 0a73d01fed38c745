"""What the laws of families compare with."""

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


def close(ours: Tensor, theirs: Tensor, bar: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=bar * theirs.std().item(), rtol=bar)


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
