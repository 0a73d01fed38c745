"""Noise schedules are those of diffusers' scheduler configs, or refused by name."""

import json
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from pipeline.diffusion.noise import EDM, VP, Flow
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.schedulers import read_scheduler, student_scheduler
from pipeline.utils.errors import UserError


def saved(scheduler: Any, **changes: Any) -> dict[str, Any]:
    """The content of its `scheduler_config.json`."""
    return {**json.loads(scheduler.to_json_string()), **changes}


def test_the_schedule_of_edm_is_read() -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=10.0, sigma_data=0.3, rho=5.0)
    assert read_scheduler(saved(scheduler)) == (EDM(0.01, 10.0, 0.3, 5.0), "edm")


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_the_schedule_of_vp_is_read(kind: Any) -> None:
    scheduler = kind(num_train_timesteps=50, beta_schedule="linear", beta_end=0.1)
    schedule, prediction = read_scheduler(saved(scheduler))
    assert isinstance(schedule, VP) and prediction == "epsilon"
    assert torch.equal(schedule.alphas_cumprod, scheduler.alphas_cumprod)


def test_the_spacing_of_stable_diffusion_is_read() -> None:
    """Leading, one on, and its last step ends at the table's first level."""
    scheduler = DDIMScheduler(steps_offset=1, set_alpha_to_one=False)
    schedule, _ = read_scheduler(saved(scheduler))
    scheduler.set_timesteps(20)
    assert schedule.times(20).tolist() == [*scheduler.timesteps.tolist(), 0]


def test_the_schedule_of_flow_is_read() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=500, shift=3.0)
    assert read_scheduler(saved(scheduler)) == (Flow(3.0, 500), "flow_prediction")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler", "snr": 0.15}, "ScoreSdeVeScheduler is not"),
        ({}, "without a class name"),
        (
            saved(EDMEulerScheduler(sigma_schedule="exponential")),
            "EDMEulerScheduler: sigma_schedule 'exponential' is not supported; known is karras",
        ),
        (
            saved(DPMSolverMultistepScheduler(final_sigmas_type="sigma_min")),
            "DPMSolverMultistepScheduler: final_sigmas_type 'sigma_min' is not",
        ),
        (saved(DDPMScheduler(), prediction_type="wild"), "DDPMScheduler: prediction_type 'wild'"),
        (saved(DDPMScheduler(), beta_schedule="wild"), "DDPMScheduler: .*wild"),
        (
            saved(DDIMScheduler(rescale_betas_zero_snr=True)),
            "DDIMScheduler: rescale_betas_zero_snr with prediction_type epsilon is not",
        ),
        (
            saved(EDMEulerScheduler(), prediction_type="v_prediction"),
            "EDMEulerScheduler: prediction_type 'v_prediction'",
        ),
        (
            saved(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
            "FlowMatchEulerDiscreteScheduler: use_dynamic_shifting",
        ),
        (
            saved(FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)),
            "FlowMatchEulerDiscreteScheduler: shift_terminal is not",
        ),
        (
            saved(EulerDiscreteScheduler(use_karras_sigmas=True)),
            "EulerDiscreteScheduler: use_karras_sigmas is not supported; set it to false",
        ),
    ],
)
def test_what_is_not_known_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_scheduler(config)


ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
@pytest.mark.parametrize("start", [999.0, 399.0])
def test_zero_terminal_snr_is_the_schedulers_own_and_the_students(kind: Any, start: float) -> None:
    """Exactly 0 for some of them, 2^-24 for others."""
    scheduler = kind(**ZERO_SNR)
    schedule, _ = read_scheduler(saved(scheduler))
    assert isinstance(schedule, VP)
    assert torch.equal(schedule.alphas_cumprod, scheduler.alphas_cumprod)
    student = student_scheduler(saved(scheduler), FewStepSampler(schedule, (start,)))
    table = scheduler.alphas_cumprod[: int(start) + 1]
    torch.testing.assert_close(student.alphas_cumprod, table, atol=0, rtol=1e-5)
    read, _ = read_scheduler(saved(student))
    assert isinstance(read, VP) and torch.equal(read.alphas_cumprod, student.alphas_cumprod)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_times_of_a_multistep_solver_are_its_own(spacing: str, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(timestep_spacing=spacing, steps_offset=1)
    schedule, _ = read_scheduler(saved(scheduler))
    scheduler.set_timesteps(steps)
    assert schedule.times(steps).tolist() == [*scheduler.timesteps.tolist(), -1]


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_times_of_sana_are_its_solvers(steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    schedule, prediction = read_scheduler(saved(scheduler))
    assert prediction == "flow_prediction" and schedule.start == 1.0
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(schedule.times(steps).float(), scheduler.sigmas)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_follows_the_size_of_the_image(kind: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    schedule, _ = read_scheduler(saved(scheduler), tokens=1024)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    torch.testing.assert_close(schedule.times(4).float(), scheduler.sigmas)
    wider, _ = read_scheduler(saved(scheduler), tokens=4096)
    assert wider.shift > schedule.shift
