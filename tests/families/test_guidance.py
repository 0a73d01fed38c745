"""Guidance of a part of the way, and norms that it keeps, as pipelines have them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config import Config, PairsConfig
from pipeline.diffusion.guidance import Guidance
from pipeline.evaluation.generate import generators
from pipeline.models.families.gaussian import gaussian_teacher
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import network_calls, sample_teacher
from pipeline.stages.plan import Plan
from tests.families.builder import NEGATIVE
from tests.families.builders import BUILDERS
from tests.families.measures import close

UNTIL = {"z-image": "cfg_truncation", "lumina2": "cfg_trunc_ratio"}
"""What pipelines call it."""


CASES = [(0.25, True), (0.3, None), (0.6, False), (1.0, True)]


class Rows:
    """Counts the rows that a network is asked for."""

    def __init__(self, network: nn.Module) -> None:
        self.counts: list[int] = []
        network.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, network: nn.Module, given: tuple, named: dict, output: Any) -> None:
        x_t = named.get("hidden_states", named.get("x", given[0] if given else None))
        self.counts.append(len(x_t))

    def taken(self) -> int:
        """Since the last time."""
        rows = sum(self.counts)
        self.counts.clear()
        return rows


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("name", UNTIL)
def test_the_latents_and_the_networks_rows_are_the_pipelines(
    tiny_model: Any, prompts: Path, name: str, steps: int
) -> None:
    folder, size = tiny_model(BUILDERS[name]), BUILDERS[name].sizes[steps == 20]
    wide: Any = BUILDERS[name].sized(*size)
    teacher, pipe = load_teacher(wide.teacher(folder, prompts)), wide.open(folder)
    ours, theirs = Rows(teacher.backbone), Rows(pipe.transformer)
    for until, norm in CASES:
        told = {UNTIL[name]: until} | ({} if norm is None else {"cfg_normalization": norm})
        expected = wide.called(pipe, steps, 4.0, "latent", negative_prompt=[NEGATIVE] * 2, **told)
        noise, labels, how = wide.noise(), wide.labels_of(teacher), Guidance(4.0, until, norm)
        close(sample_teacher(teacher, noise, labels, "euler", steps, how), expected, 1e-4)
        rows = 2 * network_calls(teacher, "euler", steps, how)
        assert ours.taken() == theirs.taken() == rows


@pytest.mark.parametrize("name", UNTIL)
def test_both_settings_change_the_images(tiny_model: Any, prompts: Path, name: str) -> None:
    builder: Any = BUILDERS[name]
    teacher = load_teacher(builder.teacher(tiny_model(builder), prompts))
    labels, noise = builder.labels_of(teacher), builder.noise()
    made = [
        sample_teacher(teacher, noise, labels, "euler", 4, Guidance(4.0, *more))
        for more in ((1.0, True), (1.0, False), (0.3, True), (0.3, False))
    ]
    for number, one in enumerate(made):
        assert all((one - other).abs().max() > 1e-3 * one.std() for other in made[:number])


def test_of_z_image_a_norm_is_a_samples_and_a_limit(tiny_model: Any, prompts: Path) -> None:
    builder = BUILDERS["z-image"]
    teacher = load_teacher(builder.teacher(tiny_model(builder), prompts))
    x_t, flow, t = builder.noise(), builder.noise().flip(0), torch.full((2,), 0.5)
    without = torch.tensor([1.5, 0.5]).view(2, 1, 1, 1) * flow
    made = teacher.guided(x_t - without, x_t - flow, 2.0, x_t, t, True)
    expected = torch.tensor([0.5, 1.0]).view(2, 1, 1, 1) * flow
    torch.testing.assert_close(x_t - made, expected)


def test_a_comparisons_teacher_is_guided_as_its_pairs() -> None:
    teacher, pairs = gaussian_teacher((1, 4, 4), 3), PairsConfig(guidance=3.0, guidance_until=0.5)
    noise, labels = torch.randn(3, 1, 4, 4), torch.arange(3)
    expected = sample_teacher(teacher, noise, labels, "heun", 18, Guidance(3.0, 0.5))
    assert torch.equal(generators(teacher, teacher, pairs)[1](noise, labels), expected)


def test_a_plan_says_that_its_calls_are_the_most() -> None:
    settings = {"guidance": 3.0, "guidance_until": 0.5}
    assert "at most 70 teacher" in "".join(Plan(Config.model_validate({"pairs": settings})).lines)
