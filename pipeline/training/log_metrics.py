"""The hook that logs metrics: losses, gradient norms, speed, memory."""

import logging
import math
import resource
from collections.abc import Callable, Iterator
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import DistillConfig
from pipeline.runs.metrics_log import MetricsLog
from pipeline.runs.run import Run
from pipeline.training.build import TrainingRun
from pipeline.training.clock import Clock
from pipeline.training.hooks import Hook, due
from pipeline.training.peaks import peak
from pipeline.training.step import StepResult

HOST_LIMITS = 0.97
"""Share of the GPU's seconds, with the host still at work, from which on it waits for the host."""

log = logging.getLogger(__name__)


class LogMetrics(Hook):
    """Logs the means over the steps since the last line; all workers take part, the first writes.

    Args:
        distill: `log_every`, `steps`, `batch_size` and `precision` of it.
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
        self._step = training.step
        self._accelerator, self._clock = training.step.accelerator, training.step.clock
        self._since: list[dict[str, Tensor]] = []
        self._skipped = 0
        self._flops_of, self._flops, self._warm = training.flops, 0.0, False
        self._hinted = False

    def __enter__(self) -> Self:
        """Count the time from here on."""
        self._clock.split(1)
        return self

    def after_step(self, step: int, result: StepResult) -> None:
        self._since.append(result.figures)
        if self._log is not None:
            self._log.count(step)
        self._flops += self._flops_of(step - 1) if self._flops_of else 0.0
        if not due(step, self._distill.log_every, self._distill.steps):
            return
        self._skipped += sum(not all(map(torch.isfinite, norms)) for norms in self._norms())
        figures = _means(self._since, self._accelerator) | {"skipped": self._skipped}
        if self._log is not None:
            figures |= self._rates(step - 1) | _costs(
                self._clock, len(self._since), self._accelerator.device
            )
            figures["samples_per_second"] = self._distill.batch_size / figures["seconds_step"]
            figures |= self._efficiency(figures["seconds_step"])
            self._hint(figures)
            self._log.scalars(step, figures)
            self._show(figures)
        self._since.clear()
        self._flops = 0.0

    def _rates(self, step: int) -> dict[str, float]:
        """The phase of a step, counted from 0, and the learning rates of who learns in it."""
        phase = self._step.method.recipe.phase(step)
        learners = {1: ("student",), 2: ("critic",), 3: ("student", "critic")}[phase]
        rates = {f"lr_{name}": getattr(self._step, name).rate(step) for name in learners}
        return {"phase": phase, **rates}

    def _efficiency(self, seconds: float) -> dict[str, float]:
        """TFLOP/s of each worker, and their share of what its GPU can do at most."""
        if not self._flops_of:
            return {}
        each = self._flops / len(self._since) / self._accelerator.num_processes
        found, device = {"tflops": each / seconds / 1e12}, self._accelerator.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        if most := peak(name, self._distill.precision):
            found["mfu"] = found["tflops"] / most
        return found

    def _hint(self, figures: dict[str, float]) -> None:
        """Say once that the GPU waits for the host; the first line's steps are not as the rest."""
        device, host = (figures.get(f"seconds_{name}", 0.0) for name in ("device", "host"))
        warm, self._warm = self._warm, True
        if warm and not self._hinted and device and host >= HOST_LIMITS * device:
            self._hinted = True
            log.warning(
                "the GPU waits for the host in %.0f%% of its time: raise distill.batch_size, or "
                "lower distill.lanes, so that a microbatch has more images; distill.compile: whole "
                "leaves the host less to do",
                100 * host / device,
            )

    def _norms(self) -> Iterator[list[Tensor]]:
        """Of each step's gradients; that of a network that skipped it is not finite."""
        for figures in self._since:
            yield [value for name, value in figures.items() if name.endswith("_norm")]


class LogScores(Hook):
    """Puts the scores that the driver has had measured on the curves, at every checkpoint.

    Args:
        run: Whose checkpoints; without `distill.scoring.count` nothing is looked at.
        log: The first worker's; None on others.
    """

    def __init__(self, run: Run, log: MetricsLog | None) -> None:
        self._run = run
        self._log = log if run.config.distill.scoring.count else None

    def at_checkpoint(self, step: int) -> None:
        if self._log is not None:
            self._log.scores(self._run.checkpoints)


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
