"""Laws of the distances between sets of features."""

import pytest
import scipy.linalg
import torch
from torch import Tensor

from pipeline.metrics import frechet_distance, precision_recall


def normal(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


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


def test_no_distance_to_itself_with_fewer_samples_than_features() -> None:
    x = normal(20, 64)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("bad", [torch.full((9, 4), float("nan")), torch.zeros(9, 3)])
def test_bad_features_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError):
        frechet_distance(torch.zeros(9, 4), bad)
    with pytest.raises(ValueError):
        precision_recall(torch.zeros(9, 4), bad)


def test_a_set_covers_itself() -> None:
    x = normal(300, 8)
    assert precision_recall(x, x) == (1, 1)


def test_sets_far_apart_cover_nothing() -> None:
    x = normal(300, 8)
    assert precision_recall(x, x + 100) == (0, 0)


def test_a_dropped_mode_costs_recall_alone() -> None:
    modes = 20 * torch.eye(4, 8, dtype=torch.float64)
    real = (normal(4, 500, 8) + modes[:, None]).flatten(0, 1)
    fake = (normal(3, 500, 8, seed=1) + modes[:3, None]).flatten(0, 1)
    full = (normal(4, 500, 8, seed=1) + modes[:, None]).flatten(0, 1)
    all_modes, dropped = precision_recall(real, full), precision_recall(real, fake)
    assert dropped.precision == pytest.approx(all_modes.precision, abs=0.03)
    assert dropped.recall == pytest.approx(0.75 * all_modes.recall, abs=0.03)


def test_precision_and_recall_change_places_with_their_sets() -> None:
    a, b = normal(300, 8), 0.7 * normal(400, 8, seed=1)
    forth, back = precision_recall(a, b), precision_recall(b, a)
    assert forth == (back.recall, back.precision)
    assert forth.precision > forth.recall


def test_the_radius_reaches_the_third_neighbour() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    inside, outside = torch.tensor([[5.9]] * 4), torch.tensor([[6.1]] * 4)
    assert precision_recall(real, inside).precision == 1
    assert precision_recall(real, outside).precision == 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(300, 8), 0.8 * normal(310, 8, seed=1)
    whole = precision_recall(a, b)
    monkeypatch.setattr("pipeline.metrics._CHUNK", 7)
    assert precision_recall(a, b) == whole
