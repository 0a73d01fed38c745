"""Predictions to and from x0: round trips and definitions."""

import diffusers
import pytest
import torch

from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.prediction import (
    PREDICTIONS,
    edm_error_weight,
    edm_inputs,
    edm_to_x0,
    error_weight,
    to_x0,
)
from tests.fixtures.outputs import edm_from_x0, from_x0

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


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_x0_is_as_precise_as_the_input_whatever_the_network_computes_in(kind):
    x_t, alpha, sigma = noisy("VP")
    assert to_x0(kind, EPS.bfloat16(), x_t, alpha, sigma).dtype == x_t.dtype


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


def vp(zero_snr: bool = False) -> VP:
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_snr
    )
    return VP(scheduler.alphas_cumprod)


def times(schedule: Schedule) -> torch.Tensor:
    """All of a table, and as many of a schedule without one."""
    fractions = torch.linspace(0, 1, 1000, dtype=torch.float64)
    return schedule.time_from_fraction(fractions).clamp(min=1e-3 * isinstance(schedule, Flow))


def guesses(schedule: Schedule, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """An image, a wrong guess of it, and its x_t at each time, all (T, 3)."""
    x0, eps, error = torch.randn(3, len(t), 3, generator=torch.Generator().manual_seed(1)).double()
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    return x0, x0 + error, alpha * x0 + sigma * eps


@pytest.mark.parametrize(
    "schedule", [vp(), vp(zero_snr=True), Flow(3.0)], ids=["VP", "zero", "flow"]
)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_weighted_error_of_x0_is_that_of_the_networks_own_output(kind, schedule):
    t = times(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0, guess, x_t = guesses(schedule, t)
    factors = alpha[:, None], sigma[:, None]
    error = from_x0(kind, guess, x_t, *factors) - from_x0(kind, x0, x_t, *factors)
    weighted = error_weight(kind, alpha, sigma)[:, None] * (guess - x0) ** 2
    torch.testing.assert_close(weighted, error**2, rtol=1e-6, atol=1e-9)


def test_the_weighted_error_of_x0_is_that_of_the_output_in_edms_preconditioning():
    t = times(EDM())
    x0, guess, x_t = guesses(EDM(), t)
    error = edm_from_x0(guess, x_t, t[:, None], 0.4) - edm_from_x0(x0, x_t, t[:, None], 0.4)
    weighted = edm_error_weight(t, 0.4)[:, None] * (guess - x0) ** 2
    torch.testing.assert_close(weighted, error**2, rtol=1e-6, atol=1e-9)


def test_weights_are_those_of_the_papers_bit_by_bit():
    """eps: the signal-to-noise ratio; flow: 1/t^2 (alpha + sigma is 1); v: never 0."""
    t = times(Flow(3.0)).float()
    assert torch.equal(error_weight("flow_prediction", 1 - t, t), t**-2)
    schedule, t = vp(zero_snr=True), torch.arange(1000.0)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert torch.equal(error_weight("epsilon", alpha, sigma), (alpha / sigma) ** 2)
    assert error_weight("v_prediction", alpha, sigma)[-1] == 1
    assert (error_weight("sample", alpha, sigma) == 1).all()


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="unknown prediction type 'noise'; known are epsilon"):
        to_x0("noise", X0, X0, ALPHA, ALPHA)
    with pytest.raises(ValueError, match="unknown prediction type 'noise'; known are epsilon"):
        error_weight("noise", ALPHA, ALPHA)
