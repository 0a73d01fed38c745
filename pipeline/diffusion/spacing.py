"""Spacings: the times at which a solver asks its network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_MULTISTEP = ("multistep-leading", "multistep-linspace")
_IN_TABLE = ("leading", "trailing", "linspace", "rounded", *_MULTISTEP)
_IN_FLOW = ("linspace", "trailing", "once", "whole", "multistep", "unipc", "unipc-trailing")
_INSIDE = 2.0**-12
"""How far a time stays below the next that is told otherwise: float32 tells them apart."""


@dataclass(frozen=True)
class OwnSteps:
    """Steps of a sampler that chooses levels of noise, and what it tells its network of them.

    Args:
        levels: Number of steps -> the times that the network is told, (steps,), and sigma / alpha
            there and at the end, (steps + 1,), all float64.
        rounding: What is added to a time before it is cut to a whole number: 1/2 for a sampler that
            rounds, 0 for one that cuts off; None for one that tells it as it is.
    """

    levels: Callable[[int], tuple[Tensor, Tensor]]
    rounding: float | None = None

    def told(self, t: Tensor) -> Tensor:
        """The time that the network is told at times t."""
        return t if self.rounding is None else (t + self.rounding).floor()

    def times(self, positions: Tensor, told: Tensor) -> Tensor:
        """Times near positions, (steps,), of which `told` gives just those that were told."""
        if self.rounding is None:
            return told
        first = told - self.rounding
        return positions.clamp(first, first + 1 - _INSIDE)


def check(steps: int, spacing: str, known: tuple[str, ...]) -> None:
    """Raises ValueError for fewer steps than one, or a spacing that is not known."""
    if steps < 1:
        raise ValueError(f"a solver needs at least one step, got {steps}")
    if spacing not in known:
        raise ValueError(f"unknown spacing {spacing!r}; this schedule knows {', '.join(known)}")


def in_table(spacing: str, steps: int, total: int, offset: int) -> Tensor:
    """Descending positions in a table of training steps, (steps,) float64.

    Args:
        spacing: See `VP`.
        steps: How many.
        total: Length of the table.
        offset: Added to those of the "leading" spacing.

    Raises:
        ValueError: If the spacing is unknown or the table too short.
    """
    check(steps, spacing, _IN_TABLE)
    more = steps + (spacing in _MULTISTEP)
    if spacing.endswith("leading"):
        times = torch.arange(more).flip(0) * (total // more) + offset
    elif spacing == "trailing":
        times = (total - torch.arange(steps, dtype=torch.float64) * total / steps).round() - 1
    else:
        times = torch.linspace(total - 1, 0, more, dtype=torch.float64)
    if spacing in _MULTISTEP:
        times = times[:-1]
    if spacing in (*_MULTISTEP, "rounded"):
        times = times.round()
    if steps > total or times[0] >= total:
        raise ValueError(f"{steps} steps with offset {offset} do not fit a table of {total}")
    return times.double()


def in_flow(spacing: str, steps: int, total: int, shift: Callable[[Tensor], Tensor]) -> Tensor:
    """Descending shares of noise, (steps,) float64.

    Args:
        spacing: See `Flow`.
        steps: How many.
        total: Number of training steps.
        shift: Takes evenly spaced shares to those of the model.

    Raises:
        ValueError: If the spacing is unknown.
    """
    check(steps, spacing, _IN_FLOW)
    if spacing in ("trailing", "multistep"):
        first = 1 if spacing == "trailing" else 1 - 1 / total
        return shift(torch.linspace(first, 0, steps + 1, dtype=torch.float64)[:-1])
    if spacing.startswith("unipc"):
        most, gaps = (steps, steps - 1) if spacing == "unipc-trailing" else (total, steps)
        even = 1 + torch.arange(steps, dtype=torch.float64) * ((1 / most - 1) / max(gaps, 1))
        places = shift(even).clamp(max=1 - 1e-6) * total
        return places.clamp(max=places.floor() + 1 - _INSIDE) / total
    if spacing == "whole":  # in the order of NumPy's sums: next to a whole number a bit decides
        apart = (1 - total) / max(steps - 1, 1)
        places = torch.arange(steps, dtype=torch.float64) * apart + total
        return shift(places.clamp(min=1).floor() / total)
    last = torch.tensor(1 / total, dtype=torch.float64)
    if spacing == "linspace":
        last = shift(last)
    return shift(torch.linspace(1, last.item(), steps, dtype=torch.float64))
