"""Uni-Instruct: SiD's loss weighed by the density ratio is the gradient of another divergence."""

import math
from functools import partial

import numpy
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.adversarial import DIVERGENCES
from pipeline.diffusion.matching import MATCHING, mean_distance, sid

OWN, WANTED, SIGMA = (0.3, 0.6), (-0.2, 0.9), 0.8
"""Means and deviations of a student and a teacher of one Gaussian pixel, and the noise's."""
FAKE, REAL = (std**2 + SIGMA**2 for _, std in (OWN, WANTED))


def grid(points: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Hermite: the student's noise, that of the level, and their weights."""
    pair = numpy.polynomial.hermite_e.hermegauss(points)
    nodes, weights = (torch.from_numpy(each) for each in pair)
    noise, eps = torch.meshgrid(nodes, nodes, indexing="ij")
    return noise.flatten(), eps.flatten(), torch.outer(weights, weights).flatten() / math.tau


def ratio(x_t: Tensor) -> Tensor:
    """Density of the teacher's diffused images over that of the student's."""
    log = 0.5 * ((x_t - OWN[0]) ** 2 / FAKE - (x_t - WANTED[0]) ** 2 / REAL)
    return (log + 0.5 * math.log(FAKE / REAL)).exp()


def found(divergence: str, alpha: float = 1.0, through_ratio: bool = False) -> Tensor:
    """Gradient of the weighed loss by the student's mean and deviation, in units of scores."""
    noise, eps, shares = grid()
    own = torch.tensor(OWN, dtype=torch.float64, requires_grad=True)
    x0 = (own[0] + own[1] * noise).view(-1, 1, 1, 1)
    x_t = x0 + SIGMA * eps.view(-1, 1, 1, 1)
    real, fake = (
        mean + std**2 / total * (x_t - mean) for (mean, std), total in ((WANTED, REAL), (OWN, FAKE))
    )
    loss = MATCHING["sid-1"].loss if alpha == 1 else partial(sid, alpha=alpha)
    losses = loss(x0, real, fake) * mean_distance(x0, real).detach()
    known = ratio(x_t).flatten()
    weight = DIVERGENCES[divergence] or torch.ones_like
    weights = weight(known if through_ratio else known.detach())
    return torch.autograd.grad((shares * weights * losses).sum() * 2 / SIGMA**4, own)[0]


def expansion(forward: bool) -> Tensor:
    """Of E|score - score|^2 over the teacher's images, or else over the student's, by the same."""
    own = torch.tensor(OWN, dtype=torch.float64, requires_grad=True)
    total = own[1] ** 2 + SIGMA**2
    apart = own[0] - WANTED[0]
    if forward:
        value = (1 / REAL - 1 / total) ** 2 * REAL + (apart / total) ** 2
    else:
        value = (1 / REAL - 1 / total) ** 2 * total + (apart / REAL) ** 2
    return torch.autograd.grad(value, own)[0]


def test_weighed_by_the_ratio_it_is_the_forward_divergence():
    """By the mean; by the deviation if the ratio has a gradient, which the authors' has not."""
    wanted = expansion(forward=True)
    torch.testing.assert_close(found("kl", through_ratio=True), wanted, rtol=1e-5, atol=0)
    stopped = found("kl") / wanted
    assert stopped[0].item() == pytest.approx(1, rel=1e-5)
    assert stopped[1].item() == pytest.approx(0.72, abs=0.01)


def test_unweighed_it_is_the_reverse_divergence_at_half_the_alpha():
    wanted = expansion(forward=False)
    torch.testing.assert_close(found("reverse-kl", 0.5), wanted, rtol=1e-5, atol=0)
    assert (found("reverse-kl") / wanted - 1).abs().min() > 0.1


def test_jeffreys_is_the_authors_mixture():
    both = 0.4 * found("kl") + 0.6 * found("reverse-kl")
    torch.testing.assert_close(found("jeffreys"), both, rtol=1e-9, atol=0)
