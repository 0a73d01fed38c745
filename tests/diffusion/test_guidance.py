"""Classifier-free guidance: its one convention."""

import pytest
import torch

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.prediction import PREDICTIONS, to_x0

UNCOND, COND, X_T = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def test_scale_0_ignores_the_condition_and_1_is_the_plain_prediction():
    assert torch.equal(guided(UNCOND, COND, 0.0), UNCOND)
    assert torch.allclose(guided(UNCOND, COND, 1.0), COND)
    assert torch.allclose(guided(UNCOND, COND, 3.0), 3 * COND - 2 * UNCOND)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_guiding_any_prediction_is_guiding_x0(kind):
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    first = to_x0(kind, guided(UNCOND, COND, 7.5), X_T, alpha, sigma)
    sides = (to_x0(kind, side, X_T, alpha, sigma) for side in (UNCOND, COND))
    assert torch.allclose(first, guided(*sides, 7.5))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 4\) without and \(1, 3, 4, 4\)"):
        guided(UNCOND, COND[:1], 2.0)
