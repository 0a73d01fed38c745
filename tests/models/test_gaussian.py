"""The analytic teacher: every x0 against another way to compute it."""

import time

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pipeline.diffusion.noise import EDM, Flow, Schedule
from pipeline.models.families.gaussian import GaussianMixture, gaussian_teacher
from pipeline.models.sampling import sample_teacher
from tests.fixtures.denoise import denoise

SCHEDULES = [EDM(), Flow()]


def random_mixture(schedule: Schedule | None = None) -> GaussianMixture:
    """Three correlated Gaussians on 2x2 pixels."""
    basis = torch.linalg.qr(torch.randn(3, 4, 4, dtype=torch.float64))[0]
    variances = 0.05 + torch.rand(3, 4, dtype=torch.float64)
    means = torch.randn(3, 4, dtype=torch.float64)
    return GaussianMixture(means, variances, basis, (1, 2, 2), schedule)


def covariances(mixture: GaussianMixture) -> Tensor:
    assert mixture.basis is not None
    return mixture.basis @ mixture.variances.diag_embed() @ mixture.basis.mT


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("label", [None, 0, 1])
def test_one_pixel_is_the_integral_of_the_posterior(schedule: Schedule, label: int | None) -> None:
    means, variances = torch.tensor([[-0.8], [0.5]]), torch.tensor([[0.04], [0.2]])
    mixture = GaussianMixture(means.double(), variances.double(), None, (1, 1, 1), schedule)
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    components = torch.exp(-((grid - means) ** 2) / (2 * variances)) / variances.sqrt()
    prior = components.sum(0) if label is None else components[label]
    x_t = torch.tensor([-1.0, 0.1, 0.9], dtype=torch.float64)
    for level in (0.1, 0.4, 0.9):
        t = torch.full((3,), level, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t[0]), schedule.sigma(t[0])
        posterior = prior * torch.exp(-((x_t[:, None] - alpha * grid) ** 2) / (2 * sigma**2))
        expected = (posterior * grid).sum(1) / posterior.sum(1)
        labels = None if label is None else torch.full((3,), label)
        x0 = denoise(mixture, x_t.view(3, 1, 1, 1), t, labels).flatten()
        torch.testing.assert_close(x0, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_class_is_the_linear_gaussian_model(schedule: Schedule) -> None:
    """mu + alpha S (alpha^2 S + sigma^2 I)^-1 (x_t - alpha mu), with the full covariance S."""
    mixture, labels = random_mixture(schedule), torch.tensor([0, 1, 2, 1, 0])
    x_t, t = torch.randn(5, 1, 2, 2).double(), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
    own, mean = covariances(mixture)[labels], mixture.means[labels][..., None]
    total = alpha**2 * own + sigma**2 * torch.eye(4, dtype=torch.float64)
    expected = mean + alpha * own @ torch.linalg.solve(total, x_t.view(5, 4, 1) - alpha * mean)
    x0 = denoise(mixture, x_t, t, labels)
    assert x0.shape == x_t.shape
    torch.testing.assert_close(x0.view(5, 4, 1), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_class_it_is_tweedie_of_the_whole_mixture(schedule: Schedule) -> None:
    """x0 = (x_t + sigma^2 grad log p(x_t)) / alpha, p the sum of the diffused Gaussians."""
    mixture = random_mixture(schedule)
    x_t = torch.randn(6, 4).double().requires_grad_()
    for level in (0.1, 0.5, 0.9):
        t = torch.tensor(level, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        total = alpha**2 * covariances(mixture) + sigma**2 * torch.eye(4, dtype=torch.float64)
        density = MultivariateNormal(alpha * mixture.means, total)
        evidence = density.log_prob(x_t[:, None]).logsumexp(1).sum()
        (score,) = torch.autograd.grad(evidence, x_t)
        expected = (x_t + sigma**2 * score) / alpha
        x0 = denoise(mixture, x_t.view(6, 1, 2, 2), t).view(6, 4)
        torch.testing.assert_close(x0, expected, atol=1e-9, rtol=0)


def test_the_ode_of_one_gaussian_has_its_closed_form() -> None:
    """x(0) = mu + sqrt(v / (v + sigma_max^2)) (sigma_max z - mu), along the axes of Q."""
    mixture, labels = random_mixture(), torch.tensor([0, 1, 2, 2])
    z = torch.randn(4, 1, 2, 2).double()
    images = sample_teacher(mixture, z, labels, "heun", 500, 1.0).view(4, 4)
    assert mixture.basis is not None
    basis, mean, variance = (x[labels] for x in (mixture.basis, mixture.means, mixture.variances))
    shrink = (variance / (variance + 80.0**2)).sqrt().diag_embed()
    way = basis @ shrink @ basis.mT @ (80.0 * z.view(4, 4) - mean)[..., None]
    torch.testing.assert_close(images, mean + way[..., 0], atol=1e-4, rtol=0)


def test_the_teacher_of_the_configs_is_always_the_same() -> None:
    first = gaussian_teacher((1, 8, 8), 10)
    torch.manual_seed(1)
    second = gaussian_teacher((1, 8, 8), 10)
    assert torch.equal(first.means, second.means) and first.classes == 10
    assert first.means.square().mean().sqrt() == pytest.approx(0.5, abs=0.03)
    x_t, t = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0, 80.0])
    assert torch.equal(denoise(first, x_t, t), denoise(second, x_t, t))
    of_classes = [denoise(each, x_t, t, torch.arange(4)) for each in (first, second)]
    assert torch.equal(*of_classes)


def test_the_first_classes_do_not_depend_on_their_number() -> None:
    assert torch.equal(
        gaussian_teacher((1, 8, 8), 3).means, gaussian_teacher((1, 8, 8), 10).means[:3]
    )


def test_every_call_takes_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    teacher = gaussian_teacher((1, 2, 2), 2, delay=0.25)
    denoise(teacher, torch.zeros(1, 1, 2, 2), torch.ones(1))
    assert slept == [0.25]
