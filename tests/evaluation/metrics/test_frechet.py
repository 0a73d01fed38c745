"""Laws of the Fréchet distance, and that its intervals are as wide as it moves."""

import pytest
import scipy.linalg
import torch
from torch import Tensor

from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.metrics.frechet import (
    frechet,
    frechet_distance,
    resampled,
    rough_distance,
)
from pipeline.evaluation.metrics.metric import TwoSets
from pipeline.evaluation.metrics.moments import Normal
from tests.fixtures.features import by_moments, drawn, feature_set, normal, statistics, width

D = 16


def whitened(n: int, d: int) -> Tensor:
    """Features with mean 0 and covariance I exactly."""
    x = normal(n, d)
    q = torch.linalg.qr(x - x.mean(0)).Q
    return q * (n - 1) ** 0.5


def test_shifted_normal_is_as_far_as_its_mean() -> None:
    x, mu = whitened(500, 16), normal(16, seed=1)
    assert frechet_distance(x, x + mu) == pytest.approx(float(mu.square().sum()), rel=1e-9)


def test_scaled_normal_differs_by_its_standard_deviation() -> None:
    x = whitened(500, 16)
    assert frechet_distance(x, 3 * x) == pytest.approx(16 * (3 - 1) ** 2, rel=1e-9)


def test_agrees_with_scipy() -> None:
    mix_a, mix_b = normal(64, 64, seed=1), normal(64, 64, seed=2)
    a, b = normal(700, 64, seed=3) @ mix_a, normal(900, 64, seed=4) @ mix_b + 1
    cov_a, cov_b = a.T.cov().numpy(), b.T.cov().numpy()
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    squared = float((a.mean(0) - b.mean(0)).square().sum())
    expected = squared + (cov_a + cov_b - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert by_moments(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_no_distance_to_itself_with_fewer_samples_than_features() -> None:
    x = normal(20, 64)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
    assert by_moments(x, x.flip(0), 7) == pytest.approx(0, abs=1e-6)


def test_moments_far_from_zero_lose_nothing() -> None:
    a, b = normal(500, 8) + 1e6, 2 * normal(600, 8, seed=1) + 1e6
    assert by_moments(a, b, 10) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_the_rough_distance_is_the_same_to_a_few_digits() -> None:
    a, b = normal(700, 64, seed=3) @ normal(64, 64, seed=1), 2 * normal(900, 64, seed=4) + 1
    for few in (700, 20):
        sides = [Normal(x[:few].mean(0), x[:few].T.cov()) for x in (a, b)]
        exact = frechet_distance(a[:few], b[:few])
        assert rough_distance(*sides) == pytest.approx(exact, rel=1e-3)
    constant = Normal(torch.ones(4).double(), torch.zeros(4, 4).double())
    assert rough_distance(constant, constant) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("same_noise", [False, True])
@pytest.mark.parametrize("count, size", [(30, 64), (64, 64), (300, 16)])
def test_a_resample_is_the_distance_of_its_images(count: int, size: int, same_noise: bool) -> None:
    """Of few images, worked out from images; of many, from features: to 1e-6 of the slow way."""
    sets = [statistics(drawn(count, seed, size) * (1 + seed)) for seed in (0, 1)]
    parts = int(sets[1].groups.max()) + 1
    again = resampled(TwoSets(*(each.feature_set() for each in sets), same_noise))
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        times = torch.randint(parts, (parts,), generator=rng).bincount(minlength=parts)
        taken = [each.features.repeat_interleave(times[each.groups], 0) for each in sets]
        fixed = taken[0] if same_noise else sets[0].features
        slow = frechet_distance(fixed, taken[1])
        assert again(times.double()) == pytest.approx(slow, rel=1e-6)


@pytest.mark.parametrize("bad", [torch.full((9, 4), float("nan")), torch.zeros(9, 3)])
def test_bad_features_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError):
        frechet_distance(torch.zeros(9, 4), bad)


def floor(count: int, seed: int = 0) -> float:
    sides = [feature_set(drawn(count, 2 * seed + side)) for side in (0, 1)]
    return frechet(TwoSets(*sides)).value


def test_a_floor_shrinks_with_n_as_theory_says() -> None:
    """2 D / n for the means and D (D + 1) / 2 n for the covariances, to first order."""
    for count in (500, 2000, 8000):
        mean = sum(floor(count, seed) for seed in range(5)) / 5
        assert mean == pytest.approx((2 * D + D * (D + 1) / 2) / count, rel=0.15)


def test_an_interval_is_as_wide_as_the_figure_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)
    reference = feature_set(drawn(4000, 0))
    found = [
        frechet(TwoSets(reference, feature_set(drawn(1000, seed) + 0.2))) for seed in range(1, 31)
    ]
    moves = torch.tensor([each.value for each in found]).std()
    mean = torch.tensor([width(each) for each in found]).mean()
    assert mean == pytest.approx(float(2 * 1.96 * moves), rel=0.3)


def test_of_pairs_the_interval_is_that_of_pairs() -> None:
    """Images from the same noise differ little, however much both vary."""
    noise = drawn(2000, 1)
    sets = [feature_set(x) for x in (noise, noise + 0.1)]
    pair, apart = frechet(TwoSets(*sets, same_noise=True)), frechet(TwoSets(*sets))
    assert pair.value == apart.value == pytest.approx(D * 0.1**2, rel=1e-6)
    assert width(pair) < 1e-6 < width(apart)
