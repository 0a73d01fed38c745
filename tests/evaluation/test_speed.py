"""Clocks and counters of an evaluation."""

import time

import pytest
import torch
from torch import Tensor, nn

from pipeline.evaluation import speed
from pipeline.evaluation.speed import compare_speed, throughput, work


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


def test_the_batch_with_the_best_rate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 16 images take 2 ms and a call 8 ms more; beyond, twice the images take as long."""
    sizes = []

    def generate(noise: Tensor, labels: Tensor | None) -> Tensor:
        sizes.append(len(noise))
        time.sleep(0.008 + 0.002 * max(len(noise) - 16, 0))
        return noise

    best = throughput(generate, torch.zeros(64, 1, 2, 2), torch.zeros(64))
    assert best.batch_size == 16 and 1000 < best.images_per_second <= 2000
    assert sizes == [1] * 4 + [4] * 4 + [16] * 4 + [64] * 4
    sizes.clear()
    monkeypatch.setattr(speed, "_LONGEST", 0.01)
    assert throughput(generate, torch.zeros(64, 1, 2, 2), None).batch_size == 1
    assert sizes == [1] * 4


def test_calls_and_products_are_counted() -> None:
    network = nn.Linear(6, 5, bias=False)

    def generate(noise: Tensor, labels: Tensor | None) -> Tensor:
        return network(network(noise) @ torch.ones(5, 6))

    done = work(generate, network, torch.zeros(1, 6), None)
    assert done == (2, 2 * (2 * 6 * 5) + 2 * 5 * 6)
    generate(torch.zeros(1, 6), None)  # its hook is gone
    assert not network._forward_hooks


def test_a_guided_step_is_two_evaluations() -> None:
    network = nn.Linear(6, 5)

    def generate(noise: Tensor, labels: Tensor | None) -> Tensor:
        return network(torch.cat([noise, noise]))

    assert work(generate, network, torch.zeros(1, 6), None).nfe == 2
