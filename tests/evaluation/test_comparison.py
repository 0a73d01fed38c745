"""One n to a comparison, and a floor of its own."""

import pytest
import torch

from pipeline.evaluation.comparison import HALF, OTHER_HALF, compare
from pipeline.evaluation.metrics.frechet import frechet_distance
from tests.fixtures.features import drawn, statistics


def test_halves_are_compared_at_their_own_n() -> None:
    real, fake = statistics(drawn(800, 0)), statistics(drawn(800, 1))
    (whole,) = compare(real.feature_set(), {"student": fake.feature_set()})
    sets = {"student": fake.feature_set(HALF), "floor": real.feature_set(OTHER_HALF)}
    (half,) = compare(real.feature_set(HALF), sets)
    assert (whole.n, half.n) == (800, 400)
    assert set(whole.figures["recall"].sets) == {"student"}
    assert set(half.figures["recall"].sets) == {"student", "floor"}
    in_half = torch.isin(real.groups, torch.tensor(HALF))
    expected = frechet_distance(*(x.features[in_half] for x in (real, fake)))
    assert half.figures["fid"].sets["student"].value == pytest.approx(expected)


def test_what_is_kept_of_a_large_set_is_another_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.statistics.KEPT", 300)
    one, other = (statistics(drawn(700, seed), kept=300).feature_set() for seed in range(2))
    large, small = compare(one, {"student": other})
    assert (large.n, set(large.figures)) == (700, {"fid"})
    assert (small.n, "fid" in small.figures) == (300, False)


def test_slow_metrics_can_be_left_out() -> None:
    one, other = (statistics(drawn(100, seed)).feature_set() for seed in range(2))
    (found,) = compare(one, {"student": other}, slow=False)
    assert set(found.figures) == {"fid", "kid"}
