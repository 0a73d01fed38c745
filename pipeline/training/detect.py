"""The hooks that look for failures: one measures, one judges and acts."""

from collections.abc import Mapping

import torch
from accelerate.utils import broadcast_object_list

from pipeline.config import DistillConfig
from pipeline.methods.recipe import Recipe
from pipeline.runs.metrics_log import MetricsLog
from pipeline.runs.roll_back import roll_back, rolled_back
from pipeline.runs.run import Run
from pipeline.training.build import TrainingRun
from pipeline.training.detectors import DETECTORS
from pipeline.training.detectors.detector import Finding, find
from pipeline.training.hooks import Hook, due
from pipeline.training.step import StepResult
from pipeline.utils.errors import UserError

SHARE = 0.01
"""What probes may add to the networks' work; they are made as seldom as that takes."""


class Measure(Hook):
    """Adds the figures of a probe to those of a step, in every n-th line of the log.

    Args:
        distill: The settings.
        training: Of this worker.
    """

    def __init__(self, distill: DistillConfig, training: TrainingRun) -> None:
        self._training, self._every = training, interval(distill, training.prober.count)
        self._detectors = [each(distill) for each in DETECTORS.values()]

    def after_step(self, step: int, result: StepResult) -> None:
        """All workers make the probe, the first one measures it."""
        if step % self._every:
            return
        accelerator = self._training.step.accelerator
        with self._training.step.clock("probe"):
            share = accelerator.num_processes
            for name, value in self._figures(step).items():
                result.figures[name] = torch.tensor(value / share, device=accelerator.device)

    def _figures(self, step: int) -> Mapping[str, float]:
        training, figures = self._training.step, dict[str, float]()
        training.student.renew()
        training.critic.renew()
        learns = training.method.plan(step - 1).critic
        critic = training.critic.bare if learns else None
        probe = self._training.prober(training.student.bare, critic)
        if training.accelerator.is_main_process and probe.student.isfinite().all():
            for detector in self._detectors:
                figures |= detector.measure(probe)
        found = [figures]
        broadcast_object_list(found)
        return found[0]


def interval(distill: DistillConfig, count: int) -> int:
    """Steps from one probe of `count` images to the next: a multiple of `distill.log_every`."""
    of_run = sum(Recipe.of(distill).network_calls().evaluations()) / distill.steps
    of_probe = count * (len(distill.student.times or (0,)) + 2)
    lines = of_probe / (SHARE * of_run * distill.log_every)
    return distill.log_every * max(1, -int(-lines // 1))


class Detect(Hook):
    """Judges the lines of the log as they come, and does what `distill.on_failure` says.

    Args:
        distill: The settings.
        run: What goes back to a checkpoint.
        log: The first worker's, whose lines are written before this hook is called; None on others.

    Attributes:
        back_to: Steps of the checkpoint that the run went back to, once this hook was left.
    """

    back_to: int | None = None

    def __init__(self, distill: DistillConfig, run: Run, log: MetricsLog | None) -> None:
        self._distill, self._run, self._log = distill, run, log
        self._detectors = {name: each(distill) for name, each in DETECTORS.items()}
        self._back: Finding | None = None
        may_go_back = [
            distill.on_failure == "roll_back" and log is not None and not rolled_back(run)
        ]
        broadcast_object_list(may_go_back)  # as the first worker knows it
        self._may_go_back = may_go_back[0]

    @property
    def goes_back(self) -> bool:
        """Whether all workers are to leave, since the run goes on from an earlier checkpoint."""
        return self._back is not None

    def after_step(self, step: int, result: StepResult) -> None:
        """Judge the line of this step.

        Raises:
            UserError: If the run fails, and is to stop, or has gone back before.
        """
        if not due(step, self._distill.log_every, self._distill.steps):
            return
        found = [self._judge(self._log) if self._log is not None else None]
        if self._distill.on_failure == "warn":
            return
        broadcast_object_list(found)
        if (finding := found[0]) is None:
            return
        if not self._may_go_back:
            raise UserError(
                f"step {step}: {finding.text}; it was sound at step {finding.sound}. To go on all "
                "the same, set distill.on_failure to warn"
            )
        self._back = finding

    def _judge(self, log: MetricsLog) -> Finding | None:
        """Note what is new; of all that is found, what was sound for the shortest time."""
        warns, findings = self._distill.on_failure == "warn", list[Finding]()
        for name, detector in self._detectors.items():
            if warns and name in log.found:
                continue
            if finding := find(name, detector, log.lines):
                findings.append(finding)
                log.note(name, finding.step, finding.text)
        return min(findings, key=lambda each: each.sound, default=None)

    def __exit__(self, *error: object) -> None:
        """Go back, now that no checkpoint is being stored any more."""
        if self._back is None or error[0] is not None:
            return
        step = [0]
        if self._log is not None:
            step[0] = roll_back(self._run, self._back.step, self._back.sound).step
            self._log.went_back(step[0])
        broadcast_object_list(step)
        self.back_to = step[0]
