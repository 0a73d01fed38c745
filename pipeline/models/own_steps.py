"""The steps of those schedulers of diffusers that choose levels of noise first, or old steps."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.spacing import OwnSteps
from pipeline.utils.errors import UserError

SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""Settings with which a scheduler chooses levels, and tells its network times near them."""
_DISTILLED = ("LCMScheduler", "TCDScheduler")
_CUT = ("DPMSolver", "UniPC", "DEIS", "SASolver")
"""How the names of schedulers begin that tell whole times alone."""


def own_steps(config: Mapping[str, Any], scheduler: Any) -> OwnSteps | None:
    """Of a scheduler with betas; None where times are chosen, and levels follow from them.

    Args:
        config: Its settings, with its class's name.
        scheduler: A new one, which is kept.

    Raises:
        UserError: If its levels leave the table.
    """
    name, spaced = config["_class_name"], any(map(config.get, SPACINGS))
    clipped = config.get("lambda_min_clipped", -math.inf) > -math.inf
    if not (spaced or clipped or name in _DISTILLED):
        return None
    if not spaced:
        return OwnSteps(partial(levels, scheduler))
    table, wanted = ends({}, scheduler), ends(config, scheduler)
    for key, known, set_to in zip(("sigma_min", "sigma_max"), table, wanted, strict=True):
        if not table[0] * (1 - 1e-6) <= set_to <= table[1] * (1 + 1e-6):
            raise UserError(
                f"{name}: {key} {set_to:g} is not supported: the table of its betas goes from "
                f"{table[0]:g} to {table[1]:g}; set it to {known:g} or null in "
                "scheduler_config.json"
            )
    return OwnSteps(partial(levels, scheduler), _rounding(config))


def levels(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
    """What a scheduler tells its network in so many steps, and its levels; see `OwnSteps`."""
    scheduler.set_timesteps(steps)
    told = scheduler.timesteps[:: scheduler.order]  # without those between two steps
    if hasattr(scheduler, "sigmas"):
        kept = scheduler.sigmas[:: scheduler.order][: len(told)]
        return told.double(), torch.cat([kept, scheduler.sigmas[-1:]]).double()
    end = scheduler.final_alpha_cumprod.reshape(1)
    kept = torch.cat([scheduler.alphas_cumprod[told], end]).double()
    return told.double(), (1 / kept - 1).sqrt()


def respaced(scheduler: Any, times: Tensor) -> Tensor:
    """What a scheduler of flows without a shift makes of times that are shifted, (steps,)."""
    scheduler.set_timesteps(sigmas=times.numpy())
    made: Tensor = scheduler.sigmas[:-1]
    return made.double()


def ends(config: Mapping[str, Any], scheduler: Any) -> tuple[float, float]:
    """The ends of a new scheduler's table, or what is set in their place where a spacing takes it.

    The lowest and the highest level, sigma / alpha.
    """
    positive = scheduler.sigmas[scheduler.sigmas > 0]
    low, high = positive.min().item(), positive.max().item()
    if any(map(config.get, SPACINGS)):
        low = low if config.get("sigma_min") is None else config["sigma_min"]
        high = high if config.get("sigma_max") is None else config["sigma_max"]
    return low, high


def _rounding(config: Mapping[str, Any]) -> float | None:
    """See `OwnSteps`: Karras and Lu round, exponential and beta cut off, where times are whole."""
    name, rounds = config["_class_name"], config.get("use_karras_sigmas")
    if not name.startswith(_CUT):
        return 0.5 if rounds and name.startswith("KDPM2") else None
    cosine = config["beta_schedule"] == "squaredcos_cap_v2"
    if name == "DPMSolverMultistepScheduler" and cosine:
        return 0.0
    return 0.5 if rounds or config.get("use_lu_lambdas") else 0.0
