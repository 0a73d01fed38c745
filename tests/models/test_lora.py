"""Adapters: they begin as nothing, share the teacher's tensors, and leave in diffusers' format."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import CriticConfig, NetworkConfig, StudentConfig, TeacherConfig
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_denoiser, load_teacher
from pipeline.models.lora import FILE, load_lora, merged
from pipeline.models.network import Network
from pipeline.models.sampling import sample_student
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny
from tests.models.test_latent_models import called, labels, noise, settings_of, unpacked

LORA = {"rank": 4, "alpha": 6.0}


@pytest.fixture(scope="module", params=["sd1", "sdxl", "sd3", "pixart-sigma", "flux-dev", "sana"])
def version(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(version, tmp_path_factory) -> TeacherConfig:
    folder = tmp_path_factory.mktemp(version)
    return settings_of(version, save_tiny(folder / "model", version), folder)


def new(teacher: Any, kind: type = StudentConfig, seed: int = 0, **lora: Any) -> Network:
    return new_student(teacher, NetworkConfig(), seed, kind(lora={**LORA, **lora}))


def learnt(network: Network) -> dict[str, Tensor]:
    return {k: v for k, v in network.named_parameters() if v.requires_grad}


@torch.no_grad()
def perturbed(network: Network) -> Network:
    rng = torch.Generator().manual_seed(3)
    for weight in learnt(network).values():
        weight.add_(0.2 * torch.randn(weight.shape, generator=rng))
    return network


def made_by(network: Network, version: str) -> Tensor:
    return sample_student(network, noise(version), labels(version))


def opened(folder: str | Path) -> Any:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: Any, version: str) -> Tensor:
    """What a pipeline makes of `noise` in one step."""
    made = called(pipe, version, 1, 1.0, "latent")
    return unpacked(made) if version.startswith("flux") else made


def error(found: Tensor, expected: Tensor) -> float:
    """The largest, to the largest value: at t = 999 what is read as x0 may be far above 1."""
    return float((found - expected).abs().max() / expected.abs().max())


def test_it_begins_as_the_teacher_and_shares_its_tensors(config, version):
    teacher = load_teacher(config)
    student, critic = new(teacher), new(teacher, CriticConfig)
    tensors = {v.data_ptr() for v in (*teacher.parameters(), *teacher.buffers())}
    for network in (student, critic):
        assert torch.equal(*(made_by(each, version) for each in (network, teacher)))
        adapters = learnt(network)
        assert all(".lora_A." in name or ".lora_B." in name for name in adapters)
        rest = {*network.parameters(), *network.buffers()} - {*adapters.values()}
        assert {v.data_ptr() for v in rest} == tensors
    first = next(name for name in learnt(student) if ".lora_A." in name)
    firsts = [learnt(each)[first] for each in (student, critic, new(teacher), new(teacher, seed=1))]
    assert torch.equal(firsts[0], firsts[2]), "from the seed"
    assert not torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[0], firsts[3])
    assert not any(each.requires_grad for each in teacher.parameters())
    assert not hasattr(teacher.backbone, "peft_config")


def test_merged_as_a_lora_file_and_in_training_it_gives_one_image(config, version, tmp_path):
    teacher = load_teacher(config)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = perturbed(new(teacher))
    expected = made_by(student, version)
    assert error(made_by(teacher, version), expected) > 0.01
    whole = merged(student)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert whole.state_dict().keys() == before.keys()
    save_denoiser(whole, tmp_path / "student", {})
    exported = opened(tmp_path / "student")
    assert error(latents(exported, version), expected) < 1e-5
    loaded = load_denoiser(tmp_path / "student", "", config).eval()
    assert error(made_by(loaded, version), expected) < 1e-5
    again = new(teacher)
    load_lora(again, tmp_path / "student")
    assert error(made_by(again, version), expected) < 1e-5
    with pytest.raises(RuntimeError, match="has other adapters"):
        load_lora(new(teacher, rank=2), tmp_path / "student")
    base = opened(config.output)
    if not hasattr(base, "load_lora_weights"):
        return
    base.scheduler = exported.scheduler
    assert error(latents(base, version), expected) > 0.01
    base.load_lora_weights(tmp_path / "student")
    assert error(latents(base, version), expected) < 1e-5
    assert len(load_file(tmp_path / "student" / FILE)) == len(learnt(student))


def test_without_adapters_nothing_is_merged_and_no_file_is_left(config, tmp_path):
    student = new_student(load_teacher(config), NetworkConfig(), 0, StudentConfig())
    assert merged(student) is student
    save_denoiser(student, tmp_path / "student", {})
    assert not (tmp_path / "student" / FILE).exists()


def test_modules_that_are_not_there_and_a_missing_package_are_named(config, monkeypatch):
    teacher = load_teacher(config)
    with pytest.raises(UserError, match=r"distill\.student\.lora\.modules: to_z: .*not found"):
        new(teacher, modules=("to_z",))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"distill\.critic\.lora needs the package peft on every"):
        new(teacher, CriticConfig)
