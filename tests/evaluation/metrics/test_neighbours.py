"""Laws of precision, recall, density, coverage and nearest neighbours."""

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.metrics.neighbours import nearest, support
from tests.fixtures.features import normal


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    found = support(real, fake)
    return float(found.precision.mean()), float(found.recall.mean())


@pytest.mark.parametrize("bad", [torch.full((9, 4), float("nan")), torch.zeros(9, 3)])
def test_bad_features_are_refused(bad: Tensor) -> None:
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
    monkeypatch.setattr("pipeline.evaluation.metrics.neighbours._CHUNK", 7)
    for one, other in zip((*support(a, b), *nearest(a, b)), (*whole, *closest), strict=True):
        torch.testing.assert_close(one, other)


def test_each_point_finds_its_nearest() -> None:
    centres = 10 * torch.eye(6)
    found = nearest(centres[[4, 1]] + torch.tensor([[0.0] * 5 + [2.0]]), centres)
    assert found.which.tolist() == [4, 1]
    assert found.distance.tolist() == pytest.approx([2, 2])
