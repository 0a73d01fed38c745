"""The kernel distance moves as its interval says, whatever its subsets."""

import pytest
import torch

from pipeline.evaluation.metrics.kernel import kernel, kernel_distance
from tests.evaluation.fidelity_reference import features
from tests.fixtures.features import drawn, width


def test_a_kernel_distance_does_not_depend_on_the_size_of_subsets() -> None:
    real, fake, _ = features()["moved"]
    large, small = (kernel_distance(real, fake, 30, size) for size in (400, 100))
    assert large.mean == pytest.approx(small.mean, rel=0.05)
    assert kernel_distance(real, fake, 30, 100) == small


def test_a_kernel_distance_moves_as_its_interval_says() -> None:
    reference = drawn(600, 0)
    found = [kernel(reference, drawn(600, seed) + 0.3) for seed in range(1, 13)]
    moves = torch.tensor([each.value for each in found]).std()
    mean = torch.tensor([width(each) for each in found]).mean()
    assert 0.6 < mean / (2 * 1.96 * moves) < 1.7
    assert kernel_distance(reference, drawn(600, 99), 5, 300).mean == pytest.approx(0, abs=0.02)
