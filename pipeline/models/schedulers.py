"""diffusers' scheduler configs: the noise schedules in them."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
from torch import Tensor

from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.diffusion.spacing import OwnSteps
from pipeline.models.own_steps import SPACINGS, ends, levels, own_steps, respaced
from pipeline.utils.errors import UserError

_STEPS = (
    *("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler"),
    *("PNDMScheduler", "LCMScheduler", "TCDScheduler"),
)
"""Schedulers that take whole training times."""
_SIGMAS = (
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
)
"""Schedulers in sigma / alpha, which take times between those of training."""
_MULTISTEP = (
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "SASolverScheduler"),
)
"""Schedulers that make one time more than steps and leave out the cleanest."""
CONSISTENCY = "CMStochasticIterativeScheduler"
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", CONSISTENCY)
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
KNOWN = (*_STEPS, *_SIGMAS, *_MULTISTEP, *_EDM, *_FLOW)
"""Classes whose files are read."""

_ALONE: dict[str, tuple[Any, ...]] = {
    "final_sigmas_type": ("zero", "sigma_min"),
    "interpolation_type": ("linear",),
    "invert_sigmas": (False,),
}
"""Settings of which not every value is read."""
_FLOW_SIGMAS = {
    "DPMSolverMultistepScheduler": "multistep",
    "UniPCMultistepScheduler": "unipc",
}
"""Schedulers whose `use_flow_sigmas` is read, and their spacings of a flow's times."""
_SPACINGS = ("leading", "trailing", "linspace")
_ENDS_AT_TABLE = ("DEISMultistepScheduler", "SASolverScheduler")
"""Schedulers whose last step ends at the table's first level."""


def is_edm(config: Mapping[str, Any]) -> bool:
    """Whether a `scheduler_config.json` is of EDM or of consistency models."""
    return config.get("_class_name") in _EDM


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `scheduler_config.json` as its class takes it.

    Keys that the class does not know are left out, those that the file leaves out have the
    defaults of its constructor.

    Raises:
        UserError: If the class is none of `KNOWN`.
    """
    name = str(config.get("_class_name", ""))
    if name not in KNOWN:
        raise UserError(
            f"scheduler {name or 'without a class name'} is not supported: name one that is, such "
            f"as {KNOWN[0]} (docs/teachers.md lists them), in scheduler_config.json and "
            "model_index.json"
        )
    known = inspect.signature(getattr(diffusers, name).__init__).parameters
    own = {key: config.get(key, each.default) for key, each in known.items() if key != "self"}
    return {"_class_name": name, **own}


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
    config = completed(config)
    _check(config)
    name, prediction = config["_class_name"], config.get("prediction_type", "flow_prediction")
    if name in _EDM:
        return _edm(config)
    if config.get("timestep_type") == "continuous" and prediction == "v_prediction":
        return _continuous(config), "edm_v"
    if name in _FLOW or config.get("use_flow_sigmas"):
        _known(name, prediction, ("flow_prediction",))
        return _flow(config, tokens), prediction
    _known(name, prediction, PREDICTIONS)
    return _vp(config), prediction


def _check(config: Mapping[str, Any]) -> None:
    """Raises UserError for the first setting that has a value which is not read."""
    name = config["_class_name"]
    for key, each in inspect.signature(getattr(diffusers, name).__init__).parameters.items():
        kind, value = str(getattr(each.annotation, "__name__", each.annotation)), config.get(key)
        number, _, optional = kind.partition(" | ")
        if number not in ("int", "float") or (value is None and (optional or each.default is None)):
            continue
        least = 1 if key == "num_train_timesteps" else -math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise UserError(f"{name}: {key} is {value!r} in scheduler_config.json, not a number")
    for key, known in _ALONE.items():
        if (value := config.get(key, known[0])) not in known:
            values = " and ".join(map(str, known))
            raise UserError(f"{name}: {key} {value!r} is not supported; known is {values}")
    if not config.get("use_flow_sigmas"):
        return
    if name not in _FLOW_SIGMAS:
        read = " and ".join(_FLOW_SIGMAS)
        raise UserError(f"{name}: use_flow_sigmas is known of {read} alone")
    if config.get("final_sigmas_type", "zero") != "zero":
        raise UserError(
            f"{name}: final_sigmas_type 'sigma_min' with use_flow_sigmas is not supported: a flow "
            "ends at its image; set it to zero in scheduler_config.json"
        )
    for key in filter(config.get, SPACINGS):
        raise UserError(
            f"{name}: {key} with use_flow_sigmas is not supported: diffusers takes its levels from "
            "a table that flow sigmas do not have; set one of them to false in "
            "scheduler_config.json"
        )


def _edm(config: Mapping[str, Any]) -> tuple[EDM, str]:
    name, keys = config["_class_name"], ("sigma_min", "sigma_max", "sigma_data", "rho")
    schedule = EDM(**{key: config[key] for key in keys})
    if name == CONSISTENCY:
        return schedule, "consistency"
    kinds = {"epsilon": "edm", "v_prediction": "edm_v"}
    _known(name, prediction := config["prediction_type"], tuple(kinds))
    if (config["sigma_schedule"], config["final_sigmas_type"]) != ("karras", "zero"):
        schedule = replace(schedule, spacing=OwnSteps(partial(levels, made(config))))
    return schedule, kinds[prediction]


def _continuous(config: Mapping[str, Any]) -> EDM:
    """Of Euler's scheduler, which is EDM's for data of variance 1."""
    scheduler = made(config)
    low, high = ends(config, scheduler)
    own, leads = OwnSteps(partial(levels, scheduler)), config["timestep_spacing"] == "leading"
    return EDM(low, high, sigma_data=1.0, spacing=own, starts_at_prior=leads)


def _flow(config: Mapping[str, Any], tokens: int | None) -> Flow:
    table = config["num_train_timesteps"]
    shift, spacing = config.get("shift", config.get("flow_shift")), "linspace"
    if config.get("use_flow_sigmas"):
        spacing = _FLOW_SIGMAS[config["_class_name"]]
    elif config.get("use_dynamic_shifting"):
        spacing = "once"
    by_size = tokens is not None or spacing != "multistep"  # DPM-Solver shifts by nothing then
    if config.get("use_dynamic_shifting") and by_size:
        shift = _dynamic_shift(config, tokens)
    respace = None
    if config.get("shift_terminal") or any(map(config.get, SPACINGS)):
        as_told = {**config, "use_dynamic_shifting": False}
        as_told |= dict.fromkeys({"shift", "flow_shift"} & config.keys(), 1.0)
        respace = partial(respaced, made(as_told))
    return Flow(float(shift), table, spacing, respace)


def _vp(config: Mapping[str, Any]) -> VP:
    name, spacing = config["_class_name"], config.get("timestep_spacing", "linspace")
    if spacing not in _SPACINGS:
        raise UserError(
            f"{name}: timestep_spacing {spacing!r} is unknown; set it to one of "
            f"{', '.join(_SPACINGS)} in scheduler_config.json"
        )
    scheduler, steps = made(config), config["num_train_timesteps"]
    table: Tensor = scheduler.alphas_cumprod
    if len(table) != steps:
        raise UserError(
            f"{name}: num_train_timesteps is {steps}, but trained_betas has {len(table)} values; "
            "set one of them right in scheduler_config.json"
        )
    if table[-1] == 0 and config["prediction_type"] == "epsilon":
        raise UserError(
            f"{name}: rescale_betas_zero_snr with prediction_type epsilon is not supported: where "
            "there is noise alone, predicting it says nothing of the image; set the one the model "
            "was trained with in scheduler_config.json"
        )
    if name in _SIGMAS and config.get("final_sigmas_type", "zero") != "zero":
        raise UserError(
            f"{name}: final_sigmas_type 'sigma_min' is not supported: its end is an image and "
            "noise, scaled by neither; set it to zero in scheduler_config.json"
        )
    if name in _MULTISTEP and spacing != "trailing":
        kind = f"multistep-{spacing}"
    else:
        kind = "rounded" if name in _STEPS and spacing == "linspace" else spacing
    to_zero = name not in _ENDS_AT_TABLE and config.get("final_sigmas_type") != "sigma_min"
    return VP(
        alphas_cumprod=table,
        spacing=own_steps(config, scheduler) or kind,
        steps_offset=config["steps_offset"] if spacing == "leading" else 0,
        clean_end=config.get("set_alpha_to_one", to_zero),
        starts_at_prior=name not in _SIGMAS or spacing == "leading",
    )


def made(config: Mapping[str, Any]) -> Any:
    """The scheduler itself.

    Args:
        config: Of it, `completed`.

    Raises:
        UserError: If its class does not take it.
    """
    own = dict(config)
    name = own.pop("_class_name")
    try:
        return getattr(diffusers, name)(**own)
    except (NotImplementedError, TypeError, ValueError, LookupError) as error:
        raise UserError(f"{name}: diffusers does not take it: {error}") from error


def _dynamic_shift(config: Mapping[str, Any], tokens: int | None) -> float:
    """Of an image of so many tokens (Esser et al., 2024, arXiv 2403.03206, Section 5.3.2)."""
    if tokens is None:
        raise UserError(
            f"{config['_class_name']}: use_dynamic_shifting is not supported for this kind of "
            "model, whose pipeline tells no size; set it to false in scheduler_config.json"
        )
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    if None in (few, many, low, high):
        raise UserError(
            f"{config['_class_name']}: use_dynamic_shifting needs the numbers of base_shift, "
            "max_shift and their image_seq_len in scheduler_config.json; one is null"
        )
    mu = low + (high - low) * (tokens - few) / (many - few)
    return float(mu if config["time_shift_type"] == "linear" else math.exp(mu))


def _known(scheduler: str, prediction: str, kinds: tuple[str, ...]) -> None:
    if prediction not in kinds:
        raise UserError(
            f"{scheduler}: prediction_type {prediction!r} is unknown; known are {', '.join(kinds)}"
        )
