"""What bench/figures.py compares students with."""

import math

import torch

from bench.figures import sample_sde
from pipeline.models.families.gaussian import GaussianMixture

COUNT, MODES, SHAPE = 100_000, 3, (2, 1, 1)


def test_the_sampler_with_fresh_noise_draws_the_exact_mixture() -> None:
    """Shares, means and covariances of its modes, which are narrow, wide and turned."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    means = torch.tensor([[1.4, 0.0], [-1.4, 0.9], [0.0, -1.4]])
    variances = torch.tensor([[0.01, 0.04], [0.04, 0.0025], [0.02, 0.02]])
    teacher = GaussianMixture(means, variances, turn.expand(MODES, 2, 2), SHAPE)
    noise = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(0))
    points = sample_sde(teacher, noise, None).flatten(1)
    mode = torch.cdist(points, means).argmin(1)
    for number in range(MODES):
        own = points[mode == number]
        assert abs(MODES * len(own) / COUNT - 1) < 4 * math.sqrt(2 / COUNT)  # standard errors
        exact = turn @ variances[number].diag() @ turn.T
        centred = (own - means[number]) @ turn
        error = variances[number].sqrt() / math.sqrt(len(own))
        assert (centred.mean(0).abs() < 4 * error).all()
        assert (own.T.cov() - exact).norm() < 0.025 * exact.norm()
