"""Intervals of means."""

import pytest
import torch

from pipeline.evaluation.metrics import bootstrap
from tests.fixtures.features import width


def test_a_share_moves_as_a_binomial_does() -> None:
    found = bootstrap.mean((torch.arange(900) % 10 == 0).double())
    assert found.value == pytest.approx(0.1)
    assert width(found) == pytest.approx(2 * 1.96 * 0.01, rel=0.25)
