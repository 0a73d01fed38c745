"""Intervals that hold what they promise, floors that shrink, and one n to a comparison."""

import pytest
import torch
from torch import Tensor

from pipeline.evaluation import estimates
from pipeline.evaluation.estimates import compare, frechet, kernel, share
from pipeline.evaluation.metrics import Moments, kernel_distance
from pipeline.evaluation.statistics import GROUPS, Rows, Sketch

D = 16


def drawn(count: int, seed: int) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def sketch(features: Tensor) -> Sketch:
    made, none = Sketch(len(features)), torch.empty(0)
    made.take(0, Rows(features, features[:, :0], none.to(torch.int16), none, none))
    return made


def floor(count: int, seed: int = 0) -> float:
    sides = [sketch(drawn(count, 2 * seed + side)).moments() for side in (0, 1)]
    return frechet(*sides).value


def test_a_floor_shrinks_with_n_as_theory_says() -> None:
    """2 D / n for the means and D (D + 1) / 2 n for the covariances, to first order."""
    for count in (500, 2000, 8000):
        mean = sum(floor(count, seed) for seed in range(5)) / 5
        assert mean == pytest.approx((2 * D + D * (D + 1) / 2) / count, rel=0.15)


def test_an_interval_is_as_wide_as_the_figure_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 60)
    reference = sketch(drawn(4000, 0)).moments()
    found = [frechet(reference, sketch(drawn(1000, seed) + 0.2).moments()) for seed in range(1, 31)]
    moves = torch.tensor([each.value for each in found]).std()
    width = torch.tensor([each.high - each.low for each in found]).mean()
    assert width == pytest.approx(float(2 * 1.96 * moves), rel=0.3)


def test_of_pairs_the_interval_is_that_of_pairs() -> None:
    """Images from the same noise differ little, however much both vary."""
    noise = drawn(2000, 1)
    parts = [sketch(x).moments() for x in (noise, noise + 0.1)]
    pair, apart = frechet(*parts, paired=True), frechet(*parts)
    assert pair.value == apart.value == pytest.approx(D * 0.1**2, rel=1e-6)
    assert pair.high - pair.low < 1e-6 < apart.high - apart.low


def test_a_share_moves_as_a_binomial_does() -> None:
    found = share((torch.arange(900) % 10 == 0).double())
    assert found.value == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.01, rel=0.25)


def test_a_kernel_distance_moves_as_its_interval_says() -> None:
    reference = drawn(600, 0)
    found = [kernel(reference, drawn(600, seed) + 0.3) for seed in range(1, 13)]
    moves = torch.tensor([each.value for each in found]).std()
    width = torch.tensor([each.high - each.low for each in found]).mean()
    assert 0.6 < width / (2 * 1.96 * moves) < 1.7
    assert kernel_distance(reference, drawn(600, 99), 5, 300).mean == pytest.approx(0, abs=0.02)


def test_halves_are_compared_at_their_own_n() -> None:
    real, fake = sketch(drawn(800, 0)), sketch(drawn(800, 1))
    even, odd = range(0, GROUPS, 2), range(1, GROUPS, 2)
    (whole,) = compare(real, {"student": fake})
    (half,) = compare(real, {"student": fake}, list(even), list(odd))
    assert (whole.n, half.n) == (800, 400)
    assert set(whole.figures["recall"]) == {"student"}
    assert set(half.figures["recall"]) == {"student", "floor"}
    in_half = torch.isin(real.groups, torch.tensor(list(even)))
    expected = [Moments.of(x.features[in_half]) for x in (real, fake)]
    assert half.figures["fid"]["student"].value == pytest.approx(
        frechet(expected[:1], expected[1:]).value
    )


def test_what_is_kept_of_a_large_set_is_another_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.statistics.KEPT", 300)
    sets = [Sketch(700, kept=300) for _ in range(2)]
    none = torch.empty(0)
    for seed, each in enumerate(sets):
        each.take(0, Rows(drawn(700, seed), torch.empty(700, 0), none.to(torch.int16), none, none))
    large, small = compare(sets[0], {"student": sets[1]})
    assert (large.n, set(large.figures)) == (700, {"fid"})
    assert (small.n, "fid" in small.figures) == (300, False)
