"""A flow student's times as settings of a scheduler that is only told their number.

Some pipelines, Wan's among them, take no times. diffusers' Euler scheduler of flow matching then
takes evenly spaced ones, shifts them, and stretches them so that the last is `shift_terminal`.
Those that LTX-Video's pipeline tells it are trailing: from 1 to 1 / steps, and shifted once.
"""

from collections.abc import Sequence
from typing import Any

import diffusers

_HALVINGS = 60
_LARGEST = 1e4
"""Shift."""
_NEAR = 2e-6


def even_settings(times: Sequence[float], table: int, trailing: bool = False) -> dict[str, Any]:
    """Settings with which its times are these, as far as there are any.

    Args:
        times: Descending, in (0, 1]; the first is 1.
        table: Number of training steps.
        trailing: Whether the pipeline tells it the even times.
    """
    if len(times) == 1:
        return {}
    low, high = 1 / _LARGEST, _LARGEST
    if len(times) > 2:
        wanted = (1 - times[1]) / (1 - times[-1])
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5
            early = _second(middle, len(times), None if trailing else table) < wanted
            low, high = (low, middle) if early else (middle, high)
    return {"shift": (low * high) ** 0.5, "shift_terminal": times[-1]}


def _second(shift: float, count: int, table: int | None) -> float:
    """How far the second time is from the first, of the way to the last; trailing without table."""

    def way(even: float) -> float:
        return (1 - even) / (1 + (shift - 1) * even)

    last = 1 / count if table is None else shift / (table + shift - 1)
    return way(1 - (1 - last) / (count - 1)) / way(last)


def are_even(times: Sequence[float], table: int, trailing: bool = False) -> bool:
    """Whether there are settings with which the scheduler's times are these."""
    count, settings = len(times), even_settings(times, table, trailing)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(table, **settings)
    told = [1 - step / count for step in range(count)] if trailing else None
    scheduler.set_timesteps(count, sigmas=told)
    pairs = zip(scheduler.sigmas.tolist(), times, strict=False)
    return all(abs(found - wanted) < _NEAR for found, wanted in pairs)
