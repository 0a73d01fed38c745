"""Which network of a student takes which of its steps, as ComfyUI's noise levels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

import torch

from pipeline.diffusion.noise import VP
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.lora import lora_files
from pipeline.models.network import Network

_ENDS = ("-high-noise", "-low-noise")
"""Of the names of files of two experts."""


@dataclass(frozen=True)
class Expert:
    """A network, and steps in a row that it takes.

    Attributes:
        begin: How the names of its weights and adapters begin in the backbone.
        lora: The file of its adapters in a student's folder.
        end: Of the names of its files for ComfyUI.
        sigmas: Levels at which it is asked, and the one where it stops: the next one's first, or 0.
    """

    begin: str
    lora: str
    end: str
    sigmas: str


def experts(network: Network) -> list[Expert]:
    """Those that a student's steps ask, in their order; one alone of most students."""
    files = lora_files(network)
    ends = _ENDS if len(files) > 1 else ("",)
    parts = dict(zip(network.networks, zip(files, files.values(), ends, strict=True), strict=True))
    levels, done, found = _levels(network.sampler), 0, []
    for name, steps in groupby(network.asked(network.sampler.timesteps)):
        count = len(list(steps))
        lora, begin, end = parts[name]
        found.append(Expert(begin, lora, end, _listed(levels[done : done + count + 1])))
        done += count
    return found


def _levels(sampler: FewStepSampler) -> list[float]:
    """A student's times as noise levels, and 0: t of a flow, else sigma / alpha."""
    levels = list(sampler.timesteps)
    if isinstance(schedule := sampler.schedule, VP):
        times = torch.tensor(sampler.timesteps, dtype=torch.float64)
        levels = (schedule.sigma(times) / schedule.alpha(times)).tolist()
    assert all(map(math.isfinite, levels))
    return [*levels, 0.0]


def _listed(levels: Sequence[float]) -> str:
    return ", ".join(f"{Decimal(repr(float(level))):f}" for level in levels)
