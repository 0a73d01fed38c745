"""Noise schedules out of diffusers' scheduler configs."""

import math
from collections.abc import Mapping
from typing import Any

from diffusers.schedulers import DDPMScheduler

from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.errors import UserError

_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
_FLOW = ("invert_sigmas", "shift_terminal")


def read_scheduler(config: Mapping[str, Any], tokens: int | None = None) -> tuple[Schedule, str]:
    """The noise schedule and the prediction that a diffusers `scheduler_config.json` stands for.

    Args:
        config: The file's content, `_class_name` included.
        tokens: Of one image, for a shift that follows its size.

    Returns:
        The schedule, and a kind of prediction or "edm".

    Raises:
        UserError: If the scheduler's class, prediction type, betas or spacing are not known here.
    """
    name = str(config.get("_class_name", ""))
    prediction = str(config.get("prediction_type", "epsilon"))
    if name.startswith("EDM"):
        _known(name, prediction, ("epsilon",))
        keys = ("sigma_min", "sigma_max", "sigma_data", "rho")
        return EDM(**{key: config[key] for key in keys if key in config}), "edm"
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
        "known are EDM*, FlowMatch* and diffusers' schedulers with betas"
    )


def _vp(name: str, config: Mapping[str, Any], prediction: str, multistep: bool) -> VP:
    _known(name, prediction, PREDICTIONS)
    default = "linspace" if multistep else "leading"
    spacing = str(config.get("timestep_spacing", default))
    # DDPMScheduler knows all betas, and would take what else is there for an error.
    keys = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")
    betas = {key: config[key] for key in (*keys, "rescale_betas_zero_snr") if key in config}
    try:
        table = DDPMScheduler(**betas).alphas_cumprod
    except NotImplementedError as error:
        raise UserError(f"{name}: beta_schedule {config['beta_schedule']!r} is unknown") from error
    return VP(
        alphas_cumprod=table,
        spacing=f"multistep-{spacing}" if multistep and spacing != "trailing" else spacing,
        steps_offset=config.get("steps_offset", 0) if spacing == "leading" else 0,
        clean_end=multistep or config.get("set_alpha_to_one", True),
    )


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
