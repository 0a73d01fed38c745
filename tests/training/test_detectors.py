"""Detectors: each tells what it means from what is sound, and names settings that exist."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import Config, DistillConfig
from pipeline.training.detectors import DETECTORS
from pipeline.training.detectors.detector import CriticProbe, Finding, Probe, find

SETTINGS = DistillConfig(steps=2000, regression_steps=0, burn_in_steps=100)


def teachers(*shape: int, seed: int = 0) -> Tensor:
    """Smooth images of four conditions, 16 of each."""
    rng = torch.Generator().manual_seed(seed)
    means, own = (torch.randn(n, *shape, generator=rng) for n in (4, 64))
    images = means.repeat(16, *[1] * len(shape)) + 0.5 * own
    return (images + images.roll(1, -1) + images.roll(1, -2)) / 3


def critic(error: Tensor, known: Tensor) -> CriticProbe:
    """A critic with an error, and what it knows: x_t, x0, apart (64, D) each."""
    values = torch.stack([*known, torch.ones_like(error), error], 1).double()
    return CriticProbe(torch.linspace(0, 1, 64), values @ values.mT / values.shape[2])


def noise_like(images: Tensor, seed: int = 9) -> Tensor:
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def sound(*shape: int) -> Probe:
    """A student near to its teacher, and a critic whose error nothing explains."""
    teacher = teachers(*shape)
    student = teacher + 0.05 * noise_like(teacher, 1)
    error, *known = (noise_like(teacher, seed).flatten(1) for seed in range(2, 6))
    return Probe(
        student=student,
        teacher=teacher,
        unguided=teacher,
        noise=noise_like(teacher),
        groups=torch.arange(64) % 4,
        critic=critic(error, torch.stack(known)),
    )


IMAGE, VIDEO = (1, 8, 8), (2, 4, 8, 8)


def checkerboard(probe: Probe) -> Probe:
    rows, columns = (torch.arange(side) for side in probe.student.shape[-2:])
    signs = 1 - 2 * ((rows[:, None] + columns) % 2)
    return replace(probe, student=probe.student + 0.1 * signs)


def mean_of_condition(probe: Probe) -> Probe:
    """The same image for all seeds of a condition."""
    return replace(probe, student=probe.teacher[probe.groups])


def two_modes(probe: Probe) -> Probe:
    """Of four conditions two are made, in all their variety."""
    return replace(probe, student=probe.student[probe.groups % 2 + 4 * (torch.arange(64) // 4)])


def lagging(probe: Probe) -> Probe:
    """The critic's x0 is twice as far from the mean as it should be."""
    x0 = noise_like(probe.teacher, 3).flatten(1)
    x_t, apart = (noise_like(probe.teacher, seed).flatten(1) for seed in (4, 5))
    return replace(probe, critic=critic(x0 + 0.5 * x_t, torch.stack([x_t, x0, apart])))


def still(probe: Probe) -> Probe:
    """The critic is the teacher."""
    error, x_t, x0 = (noise_like(probe.teacher, seed).flatten(1) for seed in (2, 3, 4))
    return replace(probe, critic=critic(error, torch.stack([x_t, x0, 0 * x0])))


FAILING = {
    ("saturation", "burnt out"): (IMAGE, lambda p: replace(p, student=1.5 * p.student)),
    ("saturation", "as its guided teacher"): (
        IMAGE,
        lambda p: replace(p, student=2 * p.student, teacher=2 * p.teacher),
    ),
    ("diversity", "one image a condition"): (IMAGE, mean_of_condition),
    ("modes", "half of them"): (IMAGE, two_modes),
    ("grid pattern", "checkerboard"): (IMAGE, checkerboard),
    ("grid pattern", "in a video"): (VIDEO, checkerboard),
    ("static frames", "the first"): (
        VIDEO,
        lambda p: replace(p, student=p.student[:, :, :1].expand_as(p.student)),
    ),
    ("input noise", "itself"): (IMAGE, lambda p: replace(p, student=p.noise)),
    ("critic lag", "behind"): (IMAGE, lagging),
    ("critic lag", "still"): (IMAGE, still),
}


def lines_of(probes: list[Probe]) -> list[dict[str, float]]:
    detectors = [each(SETTINGS) for each in DETECTORS.values()]
    return [
        {"step": 50.0 * n} | {k: v for each in detectors for k, v in each.measure(probe).items()}
        for n, probe in enumerate(probes, 1)
    ]


def findings(
    lines: list[dict[str, float]], settings: DistillConfig = SETTINGS
) -> dict[str, Finding]:
    found = (find(name, each(settings), lines) for name, each in DETECTORS.items())
    return {each.detector: each for each in found if each}


@pytest.mark.parametrize("shape", [IMAGE, VIDEO])
def test_nothing_is_found_in_a_sound_run(shape):
    assert not findings(lines_of([sound(*shape)] * 8))


@pytest.mark.parametrize("case", FAILING, ids="-".join)
def test_a_failure_is_found_at_its_second_line_and_not_before(case):
    shape, fail = FAILING[case]
    probe = sound(*shape)
    lines = lines_of([*[probe] * 4, *[fail(probe)] * 2])
    assert not findings(lines[:-1])
    found = findings(lines)[case[0]]
    assert (found.step, found.sound) == (300, 200)
    assert not findings(lines[:-1] + lines[:1]), "it recovered"


def test_a_student_that_begins_blurred_is_let_be():
    """As the teacher's mean: alike, still, without contrast."""
    probe = sound(*VIDEO)
    mean = probe.teacher.mean(0, keepdim=True)
    students = [mean + part * (probe.student - mean) for part in (0.1, 0.2, 0.4, 0.7, 1.0)]
    assert not findings(lines_of([replace(probe, student=each) for each in students]))


def log(steps: int = 8, **last: float) -> list[dict[str, float]]:
    """Lines of a sound run with a GAN, the last three with other figures."""
    usual = {"student_norm": 1.0, "critic_norm": 2.0, "gan_accuracy": 0.7}
    usual |= {"gan_gradient": 1.0, "matching_gradient": 0.5}
    lines = [{"step": 50.0 * n, **usual} for n in range(1, steps + 1)]
    return [line | (last if n >= steps - 3 else {}) for n, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("GAN won", {"gan_accuracy": 0.995}),
        ("GAN won", {"gan_gradient": 2000.0}),
        ("gradients", {"critic_norm": 50.0}),
        ("gradients", {"student_norm": 50.0}),
    ],
)
def test_what_the_log_alone_tells(name, last):
    assert not findings(log())
    assert findings(log(**last)).keys() == {name}


def test_gradients_that_are_not_even_clipped_are_let_be():
    """Those of a student of few steps depend on the step that was drawn."""
    lines = [line | {"student_norm": line["student_norm"] / 100} for line in log(student_norm=50.0)]
    assert max(line["student_norm"] for line in lines) < SETTINGS.clip
    assert not findings(lines)


def test_gradients_of_another_phase_are_no_measure():
    """The regression's are small at its end, and those of what follows are not."""
    lines = log()
    early = [line | {"step": line["step"] / 10, "student_norm": 0.01} for line in lines]
    assert not findings([*early, *lines])


def test_every_way_out_is_a_setting_that_exists():
    said = [found.text for shape, fail in FAILING.values() for found in failing(shape, fail)]
    for last in ({"gan_accuracy": 1.0}, {"gan_gradient": 1e4}, {"critic_norm": 1e3}):
        said += [each.text for each in findings(log(**last)).values()]
    for text in said:
        assert (named := re.findall(r"\b(?:distill|pairs)(?:\.\w+)+", text)), text
        for setting in named:
            tree: Any = Config(run="/")
            for part in setting.split("."):
                tree = getattr(tree, part)


def failing(shape: tuple[int, ...], fail: Any) -> Any:
    probe = sound(*shape)
    return findings(lines_of([*[probe] * 4, *[fail(probe)] * 2])).values()
