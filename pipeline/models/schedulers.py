"""diffusers' scheduler configs: the noise schedules in them, and those of students."""

import math
from collections.abc import Mapping
from typing import Any

import diffusers

from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.utils.errors import UserError

_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
_ALONE = {
    "sigma_schedule": "karras",
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "timestep_type": "discrete",
}
"""Settings that are known with one value alone."""
_FLOW = ("invert_sigmas", "shift_terminal")
_CONSISTENCY = "CMStochasticIterativeScheduler"
_RAISED = ("DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "UniPC")
"""Schedulers that put 2^-24 in the place of a table's exact 0."""


def is_edm(config: Mapping[str, Any]) -> bool:
    """Whether a `scheduler_config.json` is of EDM or of consistency models."""
    name = str(config.get("_class_name", ""))
    return name.startswith("EDM") or name == _CONSISTENCY


def read_scheduler(config: Mapping[str, Any], tokens: int | None = None) -> tuple[Schedule, str]:
    """The noise schedule and the prediction that a diffusers `scheduler_config.json` stands for.

    Args:
        config: The file's content, `_class_name` included.
        tokens: Of one image, for a shift that follows its size.

    Returns:
        The schedule, and a kind of prediction, "edm" or "consistency".

    Raises:
        UserError: If the scheduler's class, prediction type, betas or spacing are not known here.
    """
    name = str(config.get("_class_name", ""))
    prediction = str(config.get("prediction_type", "epsilon"))
    for key, known in _ALONE.items():
        if (value := config.get(key, known)) != known:
            raise UserError(f"{name}: {key} {value!r} is not supported; known is {known}")
    if is_edm(config):
        _known(name, prediction, ("epsilon",))
        keys = ("sigma_min", "sigma_max", "sigma_data", "rho")
        schedule = EDM(**{key: config[key] for key in keys if key in config})
        return schedule, "consistency" if name == _CONSISTENCY else "edm"
    for key in _SIGMAS:
        if config.get(key):
            raise UserError(
                f"{name}: {key} is not supported; set it to false in scheduler_config.json: it "
                "only spaces a solver's steps, the noise is the same"
            )
    if name.startswith("FlowMatch"):
        for key in _FLOW:
            if config.get(key):
                raise UserError(f"{name}: {key} is not supported")
        spacing = "trailing" if config.get("use_dynamic_shifting") else "linspace"
        shift = _dynamic_shift(name, config, tokens) if spacing == "trailing" else None
        return Flow(
            float(config.get("shift", 1.0)) if shift is None else shift,
            config.get("num_train_timesteps", 1000),
            spacing,
        ), "flow_prediction"
    multistep = name.startswith("DPMSolverMultistep")
    if config.get("use_flow_sigmas"):
        if not multistep:
            raise UserError(
                f"{name}: use_flow_sigmas is known of DPMSolverMultistepScheduler alone"
            )
        _known(name, prediction, ("flow_prediction",))
        table = config.get("num_train_timesteps", 1000)
        return Flow(config.get("flow_shift", 1.0), table, "multistep"), prediction
    if "beta_schedule" in config or "trained_betas" in config:
        return _vp(name, config, prediction, multistep), prediction
    raise UserError(
        f"scheduler {name or 'without a class name'} is not supported; "
        f"known are EDM*, FlowMatch*, {_CONSISTENCY} and diffusers' schedulers with betas"
    )


def student_scheduler(config: Mapping[str, Any], sampler: FewStepSampler) -> Any:
    """A scheduler of diffusers that takes a student's steps, the last one to x0 itself.

    For EDM it takes the one step from the noisiest time, whatever the student's are.

    Args:
        config: The `scheduler_config.json` of its teacher; of EDM it may be empty.
        sampler: The student's.
    """
    schedule = sampler.schedule
    match schedule:
        case EDM(sigma_min, sigma_max, sigma_data, rho):
            settings = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}
            if config.get("_class_name") == _CONSISTENCY:
                return diffusers.CMStochasticIterativeScheduler(
                    **settings, sigma_data=sigma_data, clip_denoised=False
                )
            return diffusers.EDMDPMSolverMultistepScheduler(**settings, sigma_data=sigma_data)
        case Flow(shift, table):
            if (times := sampler.timesteps) != (schedule.start,):  # taken as they are, not shifted
                return diffusers.FlowMatchEulerDiscreteScheduler(
                    table, stochastic_sampling=sampler.renoise and len(times) > 1
                )
            if config.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
                return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
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
    if raised or count < config.get("num_train_timesteps", 1000):
        betas = diffusers.DDPMScheduler(**_betas(config)).betas
        if raised:
            betas[-1] = 1 - table[-1] / table[-2]
        more = {"trained_betas": betas[:count].tolist(), "rescale_betas_zero_snr": False}
    more |= {"num_train_timesteps": count, "clip_sample": False, "thresholding": False}
    if len(times) > 1 and sampler.renoise:
        return diffusers.LCMScheduler.from_config(
            config, **more, original_inference_steps=len(times)
        )
    more |= {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": True}
    return diffusers.DDIMScheduler.from_config(config, **more)


def _vp(name: str, config: Mapping[str, Any], prediction: str, multistep: bool) -> VP:
    _known(name, prediction, PREDICTIONS)
    default = "linspace" if multistep else "leading"
    spacing = str(config.get("timestep_spacing", default))
    try:
        table = diffusers.DDPMScheduler(**_betas(config)).alphas_cumprod
    except NotImplementedError as error:
        raise UserError(f"{name}: beta_schedule {config['beta_schedule']!r} is unknown") from error
    if table[-1] == 0 and name.startswith(_RAISED):
        table[-1] = 2.0**-24
    if table[-1] == 0 and prediction == "epsilon":
        raise UserError(
            f"{name}: rescale_betas_zero_snr with prediction_type epsilon is not supported: where "
            "there is noise alone, predicting it says nothing of the image"
        )
    return VP(
        alphas_cumprod=table,
        spacing=f"multistep-{spacing}" if multistep and spacing != "trailing" else spacing,
        steps_offset=config.get("steps_offset", 0) if spacing == "leading" else 0,
        clean_end=multistep or config.get("set_alpha_to_one", True),
    )


def _betas(config: Mapping[str, Any]) -> dict[str, Any]:
    """What DDPMScheduler knows of any config with betas; it would take the rest for errors."""
    keys = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")
    return {key: config[key] for key in (*keys, "rescale_betas_zero_snr") if key in config}


def _dynamic_shift(name: str, config: Mapping[str, Any], tokens: int | None) -> float:
    """Of an image of so many tokens (Esser et al., 2024, arXiv 2403.03206, Section 5.3.2)."""
    if tokens is None:
        raise UserError(f"{name}: use_dynamic_shifting is not supported for this kind of model")
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - few) / (many - few)
    return float(mu if config.get("time_shift_type") == "linear" else math.exp(mu))


def _known(scheduler: str, prediction: str, kinds: tuple[str, ...]) -> None:
    if prediction not in kinds:
        raise UserError(
            f"{scheduler}: prediction_type {prediction!r} is unknown; known are {', '.join(kinds)}"
        )
