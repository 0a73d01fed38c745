"""Whether one of our solvers takes the steps of a folder's own scheduler, and if none, why."""

from collections.abc import Mapping
from typing import Any

_OURS = {
    "DDIMScheduler": "euler",
    "DDIMParallelScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "EDMEulerScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EDMDPMSolverMultistepScheduler": "dpmpp_2m",
}
_FIRST_ORDER = ("DPMSolverSinglestepScheduler", "DEISMultistepScheduler")
"""With those of `dpmpp_2m`, the schedulers that with `solver_order` 1 take DDIM's steps."""
_STOCHASTIC = (
    *("DDPMScheduler", "DDPMParallelScheduler", "LCMScheduler", "TCDScheduler"),
    *("EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    *("SASolverScheduler", "CMStochasticIterativeScheduler"),
)


def same_solver(config: Mapping[str, Any], steps: int) -> tuple[str | None, str]:
    """The one of our solvers whose steps are the scheduler's own, or None and why it is none.

    Args:
        config: A `scheduler_config.json`, `completed`.
        steps: Of the solver.
    """
    name, algorithm = config["_class_name"], config.get("algorithm_type", "dpmsolver++")
    ours, order = _OURS.get(name), config.get("solver_order")
    if name in _STOCHASTIC or config.get("stochastic_sampling") or algorithm.startswith("sde-"):
        return None, "is stochastic"
    for key in ("thresholding", "clip_sample"):
        if config.get(key):
            return None, f"clips x0 ({key})"
    if order == 1 and (ours or name in _FIRST_ORDER):
        return "euler", ""
    if ours == "plms" and not config["skip_prk_steps"]:
        return None, "begins with Runge-Kutta steps (skip_prk_steps: false)"
    if ours == "plms" and config["prediction_type"] == "v_prediction":
        return None, "averages v, not the slope of the ODE"
    if name.startswith(("DDIM", "PNDM")) and _strides(config, steps):
        return None, f"steps by a fixed count of times (timestep_spacing: {_spacing(config)})"
    if ours == "dpmpp_2m" and order != 2:
        return None, f"is of another order (solver_order: {order})"
    if ours == "dpmpp_2m" and config["solver_type"] == "heun":
        return None, "extrapolates otherwise (solver_type: heun)"
    if ours == "dpmpp_2m" and algorithm != "dpmsolver++":
        return None, f"extrapolates eps (algorithm_type: {algorithm})"
    return ours, "" if ours else "is a solver of its own"


def _spacing(config: Mapping[str, Any]) -> str:
    return str(config["timestep_spacing"])


def _strides(config: Mapping[str, Any], steps: int) -> bool:
    """Whether the times of the spacing are not all as far apart as the scheduler takes them."""
    rest = config["num_train_timesteps"] % steps
    return _spacing(config) == "linspace" or (_spacing(config) == "trailing" and rest > 0)


def solver_note(config: Mapping[str, Any], solver: str, steps: int) -> str:
    """In one line, how the steps of a solver of ours compare with the folder's scheduler's.

    Args:
        config, steps: As for `same_solver`.
        solver: Its name, one of `pairs.solver`.
    """
    same, why = same_solver(config, steps)
    own = f"pairs.solver {solver}; the folder's {config['_class_name']}"
    if same == solver:
        return f"{own} takes the same steps"
    if same:
        return f"{own} takes those of {same}: set that for its own images"
    algorithm = str(config.get("algorithm_type", ""))
    kind = f" ({algorithm})" if algorithm.startswith("sde-") else ""
    return f"{own}{kind} {why}: pairs follow the ODE instead"
