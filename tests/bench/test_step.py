"""What bench/step.py compares is what it says."""

import pytest
import torch

from bench.step import BARS, BARS_WITHOUT, Cycle, flops


def test_the_shared_cycle_has_the_separate_ones_gradients_in_fewer_passes():
    cycle = Cycle(rows=2)
    separate, shared = cycle.calls(cycle.separate), cycle.calls(cycle.shared)
    assert separate == {
        "student": 1 + 1 + 2,  # matching, regression; new samples for two critic steps
        "teacher": 1,
        "critic's encoder": 2 + 3 * 3,  # matching, GAN; then denoising, fake, real
        "critic's decoder": 1 + 3,
    }
    assert shared == separate | {"student": 3, "critic's encoder": 1 + 3 * 2}
    reference = cycle.gradients(cycle.separate)
    difference = (cycle.gradients(cycle.shared) - reference).norm() / reference.norm()
    assert 0 <= difference < BARS["gradient_difference"]
    assert reference.isfinite().all() and torch.count_nonzero(reference) > 0.9 * len(reference)
    assert flops(cycle.shared) / flops(cycle.separate) < BARS["flops_ratio"]


def test_without_regression_it_is_dmd2s_own_step():
    """As public implementations have it; it saves the GAN's passes alone."""
    cycle = Cycle(rows=2, regression=False)
    separate, shared = cycle.calls(cycle.separate), cycle.calls(cycle.shared)
    assert separate == {
        "student": 1 + 2,  # matching; new samples for two critic steps
        "teacher": 1,
        "critic's encoder": 2 + 3 * 3,
        "critic's decoder": 1 + 3,
    }
    assert shared == separate | {"critic's encoder": 1 + 3 * 2}
    reference = cycle.gradients(cycle.separate)
    difference = (cycle.gradients(cycle.shared) - reference).norm() / reference.norm()
    assert difference < BARS_WITHOUT["gradient_difference"]
    assert flops(cycle.shared) / flops(cycle.separate) == pytest.approx(0.892, abs=0.001)
