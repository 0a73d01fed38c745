"""Intervals of means."""

import pytest
import torch

from pipeline.evaluation.metrics import bootstrap
from tests.fixtures.features import width


def test_a_share_moves_as_a_binomial_does() -> None:
    found = bootstrap.mean((torch.arange(900) % 10 == 0).double())
    assert found.value == pytest.approx(0.1)
    assert width(found) == pytest.approx(2 * 1.96 * 0.01, rel=0.25)


def test_images_of_one_prompt_say_no_more_than_the_prompt() -> None:
    """Nine images alike are one; of a single prompt the images are all there is."""
    values = torch.randn(200, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(200)
    alone = bootstrap.mean_over_groups(values, groups)
    alike = bootstrap.mean_over_groups(values.repeat(9), groups.repeat(9))
    assert alike == pytest.approx(alone) and alone.value == pytest.approx(float(values.mean()))
    assert width(alone) == pytest.approx(2 * 1.96 * float(values.std()) / 200**0.5, rel=0.25)
    assert bootstrap.mean_over_groups(values, 0 * groups) == bootstrap.mean(values)
