"""Floors of an evaluation."""

import pytest
import torch

from pipeline.evaluation.comparison import compare
from pipeline.evaluation.figures import against_real, half_against_half
from pipeline.evaluation.metrics import bootstrap
from tests.fixtures.features import drawn, statistics


def test_floor_of_a_normal_is_that_of_theory() -> None:
    """2 D / n for the means and D (D + 1) / 2n for the covariances, to first order."""
    features = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert half_against_half(features, torch.zeros(4000)) == pytest.approx(
        (2 * 16 + 16 * 17 / 2) / 2000, rel=0.1
    )


def test_floor_holds_the_classes_equal() -> None:
    """Two classes far apart: halves with unequal shares of them would be far apart too."""
    labels = torch.arange(400) % 2
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    near, far = noise, noise + 1000.0 * labels[:, None]
    assert half_against_half(far, labels) < 30 * half_against_half(near, labels)


def test_precision_and_recall_have_the_number_of_images_they_are_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.evaluation.statistics.KEPT", 300)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    real, student, teacher = (statistics(drawn(700, seed), kept=300) for seed in range(3))
    others = {"student": student.feature_set(), "teacher": teacher.feature_set()}
    found = against_real({"real": real}, compare(real.feature_set(), others))
    assert (found.n_real, found.n_real_compared) == (700, 300)
