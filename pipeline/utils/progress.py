"""How far a long job is: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from tqdm import tqdm

SECONDS_PER_LINE = 10.0
"""Least time from one line to the next, in seconds; the last line comes at once."""


class Progress:
    """The way of a job from `start` to `total`: a bar on a terminal, else a line now and then.

    ```python
    with Progress(4000, "teacher", "steps") as bar:
        for batch in batches:
            bar.update(1, loss=loss)
    ```
    prints `teacher  1200/4000 steps  30%  85.2 steps/s  33 s left  loss 0.123`, every ten seconds
    at most.

    Args:
        total: Count at the end.
        label: Name of the job.
        unit: What is counted, in the plural, such as "steps".
        start: Count at the beginning, where an earlier run did a part.
        shown: False counts in silence, as all workers but the first do.
    """

    def __init__(
        self, total: int, label: str, unit: str, start: int = 0, shown: bool = True
    ) -> None:
        self.shown = shown
        self.total, self.label, self.unit, self.start = total, label, unit, start
        self.done = start
        self._figures: dict[str, float] = {}
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Progress:
        """Show the beginning."""
        self._marks = deque([(time.monotonic(), self.done)], maxlen=7)  # of the last minute
        self._began = time.monotonic()
        if self.shown and sys.stdout.isatty():
            self._bar = tqdm(
                total=self.total,
                initial=self.start,
                desc=self.label,
                unit=f" {self.unit}",
                file=sys.stdout,
                dynamic_ncols=True,
            )
        else:
            self._print("")
        return self

    def update(self, n: int = 1, **figures: float) -> None:
        """Count `n` more; figures, such as a loss, stay shown until new ones come."""
        self.done += n
        self._figures = figures or self._figures
        if self._bar is not None:
            self._bar.set_postfix(
                {name: f"{x:.4g}" for name, x in self._figures.items()}, refresh=False
            )
            self._bar.update(n)
            return
        now = time.monotonic()
        if now - self._marks[-1][0] >= SECONDS_PER_LINE and self.done < self.total:
            then, count = self._marks[0]
            rate = (self.done - count) / (now - then)
            left = f"  {duration((self.total - self.done) / rate)} left" if rate else ""
            self._print(f"  {_short(rate)} {self.unit}/s{left}")
            self._marks.append((now, self.done))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the end, also that of a failed job."""
        if self._bar is not None:
            self._bar.close()
            return
        seconds = time.monotonic() - self._began
        rate = (self.done - self.start) / seconds if seconds else 0.0
        self._print(f"  {_short(rate)} {self.unit}/s  {duration(seconds)} in all")

    def _print(self, pace: str) -> None:
        if not self.shown:
            return
        percent = 100 * self.done // self.total if self.total else 100
        figures = "".join(f"  {name} {value:.4g}" for name, value in self._figures.items())
        print(
            f"{self.label}  {self.done}/{self.total} {self.unit}  {percent}%{pace}{figures}",
            flush=True,
        )


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it: 33 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
