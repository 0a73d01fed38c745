"""Where a step's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds by name.

    The optimiser step ends with a look at the gradient's norm, so that also on a GPU, where
    calls return early, the time of a part is its own.
    """

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's time."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.perf_counter() - begin

    def split(self, steps: int) -> dict[str, float]:
        """Seconds per step of each part and of all, since the last call."""
        now = time.perf_counter()
        spent = {**self._spent, "step": now - self._since}
        self._spent, self._since = {}, now
        return {f"seconds_{name}": value / steps for name, value in spent.items()}
