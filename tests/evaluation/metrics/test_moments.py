"""Moments of parts, each taken so many times."""

import torch

from pipeline.evaluation.metrics.moments import Moments
from tests.fixtures.features import normal


def test_weighted_moments_are_those_of_repeated_rows() -> None:
    parts = [normal(40, 5, seed=seed) for seed in range(3)]
    weighted = Moments.together([Moments.of(part) for part in parts], [2, 0, 1])
    expected = Moments.of(torch.cat([parts[0], parts[0], parts[2]]))
    assert weighted.count == expected.count
    torch.testing.assert_close(weighted.mean, expected.mean)
    torch.testing.assert_close(weighted.scatter, expected.scatter)
