"""Floors and clocks of an evaluation."""

import time

import pytest
import torch
from torch import Tensor

from pipeline.comparison import compare_speed, half_against_half


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


def test_speed_is_taken_turn_by_turn() -> None:
    turns = []

    def student(noise: Tensor, labels: Tensor | None) -> Tensor:
        turns.append("student")
        time.sleep(0.001)
        return noise

    def teacher(noise: Tensor, labels: Tensor | None) -> Tensor:
        turns.append("teacher")
        time.sleep(0.020)
        return noise

    speed = compare_speed(student, teacher, torch.zeros(1, 1, 8, 8), None, repeats=5)
    assert turns == ["student", "teacher"] * (5 + 3)
    assert speed.teacher_latency_ms >= 20
    assert speed.speedup == pytest.approx(speed.teacher_latency_ms / speed.latency_ms)
    assert speed.speedup > 3
