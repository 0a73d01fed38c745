"""A flow student's times as settings of a scheduler that is only told their number.

Some pipelines, Wan's among them, take no times. diffusers' Euler scheduler of flow matching then
takes evenly spaced ones, shifts them, and stretches them so that the last is `shift_terminal`.
"""

from collections.abc import Sequence
from typing import Any

import diffusers

_HALVINGS = 60
_LARGEST = 1e4
"""Shift."""
_NEAR = 2e-6


def even_settings(times: Sequence[float], table: int) -> dict[str, Any]:
    """Settings with which its times are these, as far as there are any.

    Args:
        times: Descending, in (0, 1]; the first is 1.
        table: Number of training steps.
    """
    if len(times) == 1:
        return {}
    low, high = 1 / _LARGEST, _LARGEST
    if len(times) > 2:
        wanted = (1 - times[1]) / (1 - times[-1])
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5
            low, high = (
                (low, middle) if _second(middle, len(times), table) < wanted else (middle, high)
            )
    return {"shift": (low * high) ** 0.5, "shift_terminal": times[-1]}


def _second(shift: float, count: int, table: int) -> float:
    """How far the second time is from the first, of the way to the last."""

    def way(even: float) -> float:
        return (1 - even) / (1 + (shift - 1) * even)

    last = shift / (table + shift - 1)
    return way(1 - (1 - last) / (count - 1)) / way(last)


def are_even(times: Sequence[float], table: int) -> bool:
    """Whether there are settings with which the scheduler's times are these."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(table, **even_settings(times, table))
    scheduler.set_timesteps(len(times))
    pairs = zip(scheduler.sigmas.tolist(), times, strict=False)
    return all(abs(found - wanted) < _NEAR for found, wanted in pairs)
