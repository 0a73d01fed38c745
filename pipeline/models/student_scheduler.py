"""Schedulers of diffusers that take a student's steps."""

from collections.abc import Mapping
from typing import Any

import diffusers

from pipeline.diffusion.noise import EDM, VP, Flow
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.even_steps import even_settings
from pipeline.models.own_steps import SPACINGS
from pipeline.models.schedulers import CONSISTENCY, completed, made

_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Schedules of betas that DDIM and LCM know; of others they are told the betas."""


def student_scheduler(
    config: Mapping[str, Any], sampler: FewStepSampler, named: bool = True, trailing: bool = False
) -> Any:
    """A scheduler of diffusers that takes a student's steps, the last one to x0 itself.

    For EDM it takes the one step from the noisiest time, whatever the student's are.

    Args:
        config: That of its teacher, `completed`; of EDM it may be empty.
        sampler: The student's.
        named: Whether a flow's times are told to it; else it has them from their number.
        trailing: As for `even_settings`, where they are not.
    """
    schedule = sampler.schedule
    match schedule:
        case EDM(sigma_min, sigma_max, sigma_data, rho):
            settings = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}
            if config.get("_class_name") == CONSISTENCY:
                return diffusers.CMStochasticIterativeScheduler(
                    **settings, sigma_data=sigma_data, clip_denoised=False
                )
            kind = config.get("prediction_type", "epsilon")
            return diffusers.EDMDPMSolverMultistepScheduler(
                **settings, sigma_data=sigma_data, prediction_type=kind
            )
        case Flow(shift, table):
            if (times := sampler.timesteps) != (schedule.start,):  # taken as they are, not shifted
                spaced = {} if named else even_settings(times, table, trailing)
                return diffusers.FlowMatchEulerDiscreteScheduler(
                    table, **spaced, stochastic_sampling=sampler.renoise and len(times) > 1
                )
            if config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
                plain = dict.fromkeys(SPACINGS[:3], False) | {"shift_terminal": None}
                return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config, **plain)
            return diffusers.FlowMatchEulerDiscreteScheduler(table, shift=shift)
    assert isinstance(schedule, VP)
    return _vp_student(config, schedule, sampler)


def spaced_timesteps(sampler: FewStepSampler) -> tuple[float, ...]:
    """The times at which `student_scheduler` asks a student that is only told their number."""
    schedule, count = sampler.schedule, len(sampler.timesteps)
    if not isinstance(schedule, VP):
        return (schedule.start,)
    if count == 1:  # its table ends there
        return sampler.timesteps
    if not sampler.renoise:
        return tuple(schedule.times(count, "trailing")[:-1].tolist())
    apart = len(schedule.alphas_cumprod) // count
    return tuple(float(apart * (count - place) - 1) for place in range(count))


def _vp_student(config: Mapping[str, Any], schedule: VP, sampler: FewStepSampler) -> Any:
    table, times = schedule.alphas_cumprod, sampler.timesteps
    count = int(times[0]) + 1 if len(times) == 1 else len(table)
    more: dict[str, Any] = {}
    raised = config.get("rescale_betas_zero_snr") and table[-1] > 0
    other = config["beta_schedule"] not in _BETAS
    if raised or other or count < config["num_train_timesteps"]:
        betas = made(config).betas
        if raised:
            betas[-1] = 1 - table[-1] / table[-2]
        more = {"trained_betas": betas[:count].tolist(), "rescale_betas_zero_snr": False}
        more |= {"beta_schedule": "linear"} if other else {}  # which the betas go before
    more |= {"num_train_timesteps": count, "clip_sample": False, "thresholding": False}
    if len(times) > 1 and sampler.renoise:
        more |= {"_class_name": "LCMScheduler", "original_inference_steps": len(times)}
    else:
        more |= {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
        more |= {"steps_offset": 1, "set_alpha_to_one": True}
    return made(completed({**config, **more}))
