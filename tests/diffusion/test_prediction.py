"""Predictions to and from x0: round trips and definitions."""

import diffusers
import pytest
import torch

from pipeline.diffusion.prediction import (
    PREDICTIONS,
    edm_from_x0,
    edm_inputs,
    edm_to_x0,
    from_x0,
    to_x0,
)

X0, EPS = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
ALPHA = torch.tensor([1.0, 0.9, 0.5, 0.1, 1e-3], dtype=torch.float64).view(-1, 1, 1, 1)
SIGMAS = {"EDM": 80 - 79.99 * ALPHA, "VP": (1.0001 - ALPHA**2).sqrt(), "flow": 1.0001 - ALPHA}


def noisy(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    alpha = torch.ones_like(ALPHA) if name == "EDM" else ALPHA
    return alpha * X0 + SIGMAS[name] * EPS, alpha, SIGMAS[name]


@pytest.mark.parametrize("schedule", SIGMAS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_makes_the_round_trip(kind, schedule):
    x_t, alpha, sigma = noisy(schedule)
    output = from_x0(kind, X0, x_t, alpha, sigma)
    assert torch.allclose(to_x0(kind, output, x_t, alpha, sigma), X0, atol=1e-8)


@pytest.mark.parametrize("schedule", SIGMAS)
def test_predictions_are_what_they_are_called(schedule):
    x_t, alpha, sigma = noisy(schedule)
    meant = {
        "epsilon": EPS,
        "sample": X0,
        "v_prediction": alpha * EPS - sigma * X0,
        "flow_prediction": EPS - X0,
    }
    for kind, output in meant.items():
        assert torch.allclose(from_x0(kind, X0, x_t, alpha, sigma), output, atol=1e-8), kind
        assert torch.allclose(to_x0(kind, output, x_t, alpha, sigma), X0, atol=1e-8), kind


def test_edm_preconditioning_is_that_of_diffusers_and_makes_the_round_trip():
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.4)
    x_t, _, sigma = noisy("EDM")
    scaled, c_noise = edm_inputs(x_t, sigma, 0.4)
    assert torch.allclose(scaled, x_t * (sigma**2 + 0.16) ** -0.5)
    assert torch.allclose(c_noise, scheduler.precondition_noise(sigma))
    output = edm_from_x0(X0, x_t, sigma, 0.4)
    assert torch.allclose(scheduler.precondition_outputs(x_t, output, sigma), X0, atol=1e-8)
    assert torch.allclose(edm_to_x0(output, x_t, sigma, 0.4), X0, atol=1e-8)


def test_an_unknown_prediction_is_refused():
    for translate in (to_x0, from_x0):
        with pytest.raises(ValueError, match="unknown prediction type 'noise'; known are epsilon"):
            translate("noise", X0, X0, ALPHA, ALPHA)
