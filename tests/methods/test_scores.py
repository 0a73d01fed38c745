"""Losses whose gradients flow through scores, against closed forms on exact Gaussians."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from pipeline.diffusion import matching
from pipeline.diffusion.noise import EDM, Flow, Schedule, expand
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.models.sampling import guide
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SHAPE, CLASSES, ROWS = (1, 2, 2), 3, 6
ALONE = StepPlan(on_samples={"matching": 1.0})


def mixture(seed: int, schedule: Schedule) -> GaussianMixture:
    rng = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(CLASSES, 4, 4, dtype=torch.float64, generator=rng))[0]
    variances = 0.05 + torch.rand(CLASSES, 4, dtype=torch.float64, generator=rng)
    means = torch.randn(CLASSES, 4, dtype=torch.float64, generator=rng)
    return GaussianMixture(means, variances, basis, SHAPE, schedule)


def score(network: GaussianMixture, one: Microbatch, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row's Gaussian: x0, (B, D), and its slope in the clean image, (B, D, D)."""
    t, labels = one.matching.t[:, None], one.condition["labels"]
    alpha, sigma = network.schedule.alpha(t), network.schedule.sigma(t)
    mean, variance, basis = (
        each[labels] for each in (network.means, network.variances, network.basis)
    )
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    slope = basis @ gain.diag_embed() @ basis.mT
    x0 = mean + (slope @ (x_t - alpha * mean)[..., None])[..., 0]
    return x0, expand(alpha[:, 0], slope) * slope


def sid(
    x0: Tensor, real: Tensor, fake: Tensor, slopes: list[Tensor], _: Tensor, alpha: float
) -> Tensor:
    apart, towards = real - fake, real - x0
    by_apart = (slopes[0] - slopes[1]) @ (towards - 2 * alpha * apart)
    return by_apart + slopes[0] @ apart - apart


def sgmd(x0: Tensor, real: Tensor, fake: Tensor, slopes: list[Tensor], level: Tensor) -> Tensor:
    size = (x0 - real).abs().mean(1, keepdim=True)
    return slopes[1] @ (fake - real - 0.1 * size / level * (fake - x0))


@pytest.mark.parametrize("schedule", [EDM(), Flow(shift=3.0)], ids=["EDM", "Flow"])
@pytest.mark.parametrize(
    ("loss", "form"),
    [("sid", partial(sid, alpha=1.2)), ("sid-1", partial(sid, alpha=1.0)), ("sgmd", sgmd)],
    ids=["sid", "sid-1", "sgmd"],
)
def test_its_gradient_is_the_closed_form(
    loss: str, form: Callable[..., Tensor], schedule: Schedule
):
    method = new_method(SHAPE, CLASSES, matching={"loss": loss, "range": (0.1, 0.9)})
    method = replace(method, schedule=schedule)
    one = double(method.draw(ROWS, torch.Generator().manual_seed(0)))
    x0 = torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    teacher, critic = mixture(0, schedule), mixture(1, schedule)
    found, _ = method._sample_gradient(ALONE, guide(teacher, 1.0), critic, x0, one)

    x_t = one.matching.add_noise(x0, schedule).flatten(1)
    (real, by_real), (fake, by_fake) = (score(each, one, x_t) for each in (teacher, critic))
    alpha, sigma = schedule.alpha(one.matching.t), schedule.sigma(one.matching.t)
    level = (sigma / (alpha + sigma))[:, None, None]
    columns = (each[..., None] for each in (x0.flatten(1), real, fake))
    expected = form(*columns, [by_real, by_fake], level)[..., 0]
    expected = expected / (x0.flatten(1) - real).abs().mean(1, keepdim=True) / x0.numel()
    assert expected.norm() > 0.01
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-5, atol=1e-9)


STD, SQUARE = 0.5, (1, 4, 4)


def learnt(residual: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Variance of a student of Gaussian pixels over the teacher's; its critic is exact."""
    monkeypatch.setattr(matching, "RESIDUAL", residual)
    method = new_method(SQUARE, matching={"loss": "sgmd", "range": (0.02, 0.98)})
    rng, scale = torch.Generator().manual_seed(0), torch.tensor(0.3, dtype=torch.float64)
    for step in range(400):
        one = double(method.draw(256, rng))
        samples = scale * one.noise
        pull, _ = method._sample_gradient(ALONE, pixels(STD), pixels(scale), samples, one)
        scale = scale - (1 - step / 400) * (pull * one.noise).sum()
    return float((scale / STD) ** 2)


def pixels(std: Tensor | float) -> GaussianMixture:
    variance = torch.as_tensor(std, dtype=torch.float64).square().expand(1, 16)
    return GaussianMixture(torch.zeros_like(variance), variance, None, SQUARE)


def test_what_sgmd_takes_of_the_critics_error_makes_a_student_narrower(monkeypatch):
    """Without it the fixed point is the teacher; with the authors' weight a variance 12% less."""
    assert abs(learnt(0.0, monkeypatch) - 1) < 1e-3
    assert abs(learnt(0.1, monkeypatch) - 0.88) < 0.01
