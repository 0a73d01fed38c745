"""The hook that logs metrics: losses, gradient norms, speed, memory."""

import math
import resource
from collections.abc import Callable, Iterator
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import DistillConfig
from pipeline.runs.metrics_log import MetricsLog
from pipeline.training.build import TrainingRun
from pipeline.training.clock import Clock
from pipeline.training.hooks import Hook, due
from pipeline.training.step import StepResult
from pipeline.training.watchdog import DriftWarnings


class LogMetrics(Hook):
    """Logs the means over the steps since the last line; all workers take part, the first writes.

    Args:
        distill: `log_every`, `steps` and `batch_size` of it.
        training: Of this worker.
        log: The first worker's; None on others.
        show: Gets the first worker's figures too.
    """

    def __init__(
        self,
        distill: DistillConfig,
        training: TrainingRun,
        log: MetricsLog | None,
        show: Callable[[dict[str, float]], None],
    ) -> None:
        self._distill, self._log, self._show = distill, log, show
        self._accelerator, self._clock = training.step.accelerator, training.step.clock
        self._since: list[dict[str, Tensor]] = []
        self._skipped = 0
        self._drift = DriftWarnings()

    def __enter__(self) -> Self:
        """Count the time from here on."""
        self._clock.split(1)
        return self

    def after_step(self, step: int, result: StepResult) -> None:
        self._since.append(result.figures)
        if not due(step, self._distill.log_every, self._distill.steps):
            return
        self._skipped += sum(not all(map(torch.isfinite, norms)) for norms in self._norms())
        figures = _means(self._since, self._accelerator) | {"skipped": self._skipped}
        if self._log is not None:
            self._drift.look(step, figures)
            figures |= _costs(self._clock, len(self._since), self._accelerator.device)
            figures["samples_per_second"] = self._distill.batch_size / figures["seconds_step"]
            self._log.scalars(step, figures)
            self._show(figures)
        self._since.clear()

    def _norms(self) -> Iterator[list[Tensor]]:
        """Of each step's gradients; that of a network that skipped it is not finite."""
        for figures in self._since:
            yield [value for name, value in figures.items() if name.endswith("_norm")]


def _means(since: list[dict[str, Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Means over the steps that have the figure, finite, summed over the workers' shares."""
    names = sorted({name for figures in since for name in figures})
    means = []
    for name in names:
        values = torch.stack([figures[name] for figures in since if name in figures]).float()
        means.append(values[values.isfinite()].mean())  # not a number if there is none
    total = accelerator.reduce(torch.stack(means), reduction="sum").tolist()
    return {name: value for name, value in zip(names, total, strict=True) if math.isfinite(value)}


def _costs(clock: Clock, steps: int, device: torch.device) -> dict[str, float]:
    """Seconds of a step by its parts, and the most memory this worker held."""
    if device.type == "cuda":
        held = torch.cuda.max_memory_allocated(device)
    else:
        held = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**clock.split(steps), "memory_gib": held / 2**30}
