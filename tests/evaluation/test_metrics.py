"""Laws of the distances between sets of features, and the numbers that torch-fidelity has."""

import json

import pytest
import scipy.linalg
import torch
from torch import Tensor

from pipeline.evaluation.metrics import (
    Moments,
    frechet_distance,
    gaussian_distance,
    kernel_distance,
    nearest,
    rough_distance,
    support,
)
from tests.evaluation.fidelity_reference import FILE, features

STORED = json.loads(FILE.read_text())["features"]
SETS = features()


def normal(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    found = support(real, fake)
    return float(found.precision.mean()), float(found.recall.mean())


def by_moments(a: Tensor, b: Tensor, chunk: int = 97) -> float:
    sides = [Moments.together([Moments.of(rows) for rows in x.split(chunk)]) for x in (a, b)]
    return gaussian_distance(*(side.gaussian() for side in sides))


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
        sides = [Moments.of(x[:few]) for x in (a, b)]
        exact = gaussian_distance(*(side.gaussian() for side in sides))
        assert rough_distance(*sides) == pytest.approx(exact, rel=1e-3)
    constant = Moments.of(torch.ones(20, 4))
    assert rough_distance(constant, constant) == pytest.approx(0, abs=1e-9)


def test_weighted_moments_are_those_of_repeated_rows() -> None:
    parts = [normal(40, 5, seed=seed) for seed in range(3)]
    weighted = Moments.together([Moments.of(part) for part in parts], [2, 0, 1])
    expected = Moments.of(torch.cat([parts[0], parts[0], parts[2]]))
    assert weighted.count == expected.count
    torch.testing.assert_close(weighted.mean, expected.mean)
    torch.testing.assert_close(weighted.scatter, expected.scatter)


@pytest.mark.parametrize("bad", [torch.full((9, 4), float("nan")), torch.zeros(9, 3)])
def test_bad_features_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError):
        frechet_distance(torch.zeros(9, 4), bad)
    with pytest.raises(ValueError):
        support(torch.zeros(9, 4), bad)


def test_a_set_covers_itself() -> None:
    x = normal(300, 8)
    assert precision_recall(x, x) == (1, 1)


def test_sets_far_apart_cover_nothing() -> None:
    x = normal(300, 8)
    assert precision_recall(x, x + 100) == (0, 0)


def test_a_dropped_mode_costs_recall_and_coverage_alone() -> None:
    modes = 20 * torch.eye(4, 8, dtype=torch.float64)
    real = (normal(4, 500, 8) + modes[:, None]).flatten(0, 1)
    fake = (normal(3, 500, 8, seed=1) + modes[:3, None]).flatten(0, 1)
    full = (normal(4, 500, 8, seed=1) + modes[:, None]).flatten(0, 1)
    every, dropped = support(real, full), support(real, fake)
    for figure, part in (("precision", 1), ("recall", 0.75), ("density", 1), ("coverage", 0.75)):
        expected = part * getattr(every, figure).mean()
        assert getattr(dropped, figure).mean() == pytest.approx(float(expected), abs=0.04), figure
    assert every.density.mean() == pytest.approx(1, abs=0.1)


def test_precision_and_recall_change_places_with_their_sets() -> None:
    a, b = normal(300, 8), 0.7 * normal(400, 8, seed=1)
    forth, back = precision_recall(a, b), precision_recall(b, a)
    assert forth == back[::-1]
    assert forth[0] > forth[1]


def test_the_radius_reaches_the_kth_neighbour() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    inside, outside = torch.tensor([[5.9]] * 4), torch.tensor([[6.1]] * 4)
    near, far = support(real, inside, k=3, k_density=3), support(real, outside, k=3, k_density=3)
    assert (near.precision == 1).all() and (far.precision == 0).all()
    assert near.density.tolist() == [1 / 3] * 4  # in the ball around 3 alone
    assert near.coverage.tolist() == [0, 0, 0, 1]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(300, 8), 0.8 * normal(310, 8, seed=1)
    whole, closest = support(a, b), nearest(a, b)
    monkeypatch.setattr("pipeline.evaluation.metrics._CHUNK", 7)
    for one, other in zip((*support(a, b), *nearest(a, b)), (*whole, *closest), strict=True):
        torch.testing.assert_close(one, other)


def test_each_point_finds_its_nearest() -> None:
    centres = 10 * torch.eye(6)
    found = nearest(centres[[4, 1]] + torch.tensor([[0.0] * 5 + [2.0]]), centres)
    assert found.which.tolist() == [4, 1]
    assert found.distance.tolist() == pytest.approx([2, 2])


@pytest.mark.parametrize("name", STORED)
def test_agrees_with_torch_fidelity(name: str) -> None:
    real, fake, digest = SETS[name]
    stored = STORED[name]
    assert digest == stored["sha256"]
    assert frechet_distance(real, fake) == pytest.approx(
        stored["frechet_inception_distance"], abs=1e-3
    )
    assert by_moments(real, fake) == pytest.approx(stored["frechet_inception_distance"], abs=1e-3)
    assert precision_recall(real, fake) == pytest.approx(
        (stored["precision"], stored["recall"]), abs=1e-3
    )
    kernel = kernel_distance(real, fake, subsets=1, size=len(real))
    assert kernel.mean == pytest.approx(stored["kernel_inception_distance_mean"], abs=1e-3)


def test_a_kernel_distance_does_not_depend_on_the_size_of_subsets() -> None:
    real, fake, _ = SETS["moved"]
    large, small = (kernel_distance(real, fake, 30, size) for size in (400, 100))
    assert large.mean == pytest.approx(small.mean, rel=0.05)
    assert kernel_distance(real, fake, 30, 100) == small
