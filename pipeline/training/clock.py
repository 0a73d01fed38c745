"""Where a step's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds by name.

    On a GPU calls return early; a look at every gradient's norm keeps the clock close to what is
    computed. What comes after that look, the optimiser's own work, counts to the next part.
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
