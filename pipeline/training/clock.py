"""Where a step's time goes."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

ON_DEVICE = ("student", "critic")
"""Parts whose time is looked at on a GPU too."""


class Clock:
    """Adds up seconds by name.

    On a GPU calls return early, and these are the host's seconds: `split` tells the GPU's beside
    them.

    Args:
        device: Where it is computed.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._spent: dict[str, float] = {}
        self._since = time.perf_counter()
        self._gpu = _GPU() if device is not None and device.type == "cuda" else None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's time."""
        begin = time.perf_counter()
        mark = self._gpu.mark() if self._gpu and name in ON_DEVICE else None
        try:
            yield
        finally:
            if self._gpu and mark:
                self._gpu.add(mark)
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - begin

    def split(self, steps: int) -> dict[str, float]:
        """Seconds per step of each part and of all, since the last call.

        On a GPU also `device`, its own of `ON_DEVICE`, and `host`, that part of these in which the
        host was still giving it work.
        """
        now = time.perf_counter()
        spent = {**self._spent, "step": now - self._since}
        if self._gpu:
            spent |= self._gpu.split()
        self._spent, self._since = {}, now
        return {f"seconds_{name}": value / steps for name, value in spent.items()}


@dataclass(frozen=True)
class _Part:
    """A part of a step on the GPU: its events, and when the host had given all of it (seconds)."""

    begin: Any
    end: Any
    given: float


class _GPU:
    """The GPU's seconds, of events that it passes: they are read once they are past.

    Its clock is the host's from a moment on at which it has nothing left to do.
    """

    def __init__(self) -> None:
        self._parts: deque[_Part] = deque()
        self._device = self._host = 0.0
        self._set()

    def mark(self) -> Any:
        """An event in the stream of work, from now on."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, begin: Any) -> None:
        """A part that began with an event and of which the host has given all."""
        self._parts.append(_Part(begin, self.mark(), time.perf_counter()))
        self._read()

    def split(self) -> dict[str, float]:
        """Seconds of the parts that are past, since the last call."""
        self._read()
        found = {"device": self._device, "host": self._host}
        self._device = self._host = 0.0
        if not self._parts:
            self._set()
        return found

    def _set(self) -> None:
        """Set its clock: the GPU is at rest, so the event is past as soon as it is there."""
        torch.cuda.synchronize()
        self._zero, self._started = self.mark(), time.perf_counter()

    def _read(self) -> None:
        while self._parts and self._parts[0].end.query():
            part = self._parts.popleft()
            begin, end = (self._zero.elapsed_time(each) / 1000 for each in (part.begin, part.end))
            self._device += end - begin
            self._host += min(end - begin, max(0.0, part.given - self._started - begin))
