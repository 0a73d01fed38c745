"""Schedulers that take a student's steps have its teacher's noise."""

import json
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, HeunDiscreteScheduler

from pipeline.diffusion.noise import VP
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.schedulers import completed, read_scheduler
from pipeline.models.student_scheduler import spaced_timesteps, student_scheduler

BETAS = [
    *((DDPMScheduler, each) for each in ("linear", "squaredcos_cap_v2", "sigmoid", "laplace")),
    *((HeunDiscreteScheduler, each) for each in ("scaled_linear", "exp")),
]


@pytest.mark.parametrize(("kind", "betas"), BETAS)
@pytest.mark.parametrize("times", [(999.0,), (499.0,), (999.0, 749.0, 499.0, 249.0)])
def test_the_noise_is_the_teachers_whatever_its_betas(
    kind: Any, betas: str, times: tuple[float, ...]
) -> None:
    config = completed(json.loads(kind(beta_schedule=betas).to_json_string()))
    schedule, _ = read_scheduler(config)
    assert isinstance(schedule, VP)
    sampler = FewStepSampler(schedule, times)
    assert spaced_timesteps(sampler) == times
    student = student_scheduler(config, sampler)
    table = schedule.alphas_cumprod[: len(student.alphas_cumprod)]
    torch.testing.assert_close(student.alphas_cumprod, table, atol=1e-7, rtol=1e-5)
    student.set_timesteps(len(times))
    assert tuple(student.timesteps.tolist()) == times
