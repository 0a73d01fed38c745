"""Moments of parts, each taken so many times."""

import pytest
import torch

from pipeline.evaluation.metrics.moments import Moments, Sums
from tests.fixtures.features import normal


def test_weighted_moments_are_those_of_repeated_rows() -> None:
    parts = [normal(40, 5, seed=seed) for seed in range(3)]
    weighted = Moments.together([Moments.of(part) for part in parts], [2, 0, 1])
    expected = Moments.of(torch.cat([parts[0], parts[0], parts[2]]))
    assert weighted.count == expected.count
    torch.testing.assert_close(weighted.mean, expected.mean)
    torch.testing.assert_close(weighted.scatter, expected.scatter)


@pytest.mark.parametrize("count, size", [(1, 5), (4, 9), (90, 4)])
def test_few_features_take_few_rows_and_many_no_more(count: int, size: int) -> None:
    x = normal(count, size) + 1e4
    streamed = Moments.of(x[:1])
    for row in x[1:]:
        streamed = Moments.together([streamed, Moments.of(row[None])])
    expected = (x - x.mean(0)).T @ (x - x.mean(0))
    for found in (Moments.of(x), streamed):
        assert len(found.root) <= min(count - 1, 2 * size)
        torch.testing.assert_close(found.scatter, expected)


def test_sums_are_moments_together_in_other_axes() -> None:
    parts, weights = [Moments.of(normal(40, 5, seed=seed)) for seed in range(3)], [2.0, 0.0, 1.0]
    axes = torch.linalg.qr(normal(5, 5, seed=9)).Q
    found = Sums.of(parts, axes).together(torch.tensor(weights).double())
    expected = Moments.together(parts, weights)
    torch.testing.assert_close(found.mean, expected.mean @ axes)
    covariance = axes.T @ expected.scatter @ axes / (expected.count - 1)
    torch.testing.assert_close(found.covariance, covariance)
