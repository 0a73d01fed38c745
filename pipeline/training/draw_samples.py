"""The hook that draws sample pictures."""

import torch

from pipeline.config import DistillConfig
from pipeline.models.half import HALF
from pipeline.runs.metrics_log import MetricsLog
from pipeline.training.build import TrainingRun
from pipeline.training.hooks import Hook, due
from pipeline.training.step import StepResult


class DrawSamples(Hook):
    """Draws the run's `SampleGrid`, and its `PromptGrid` if it has one.

    All workers make the images, since sharded networks need them all; the first one writes them.

    Args:
        distill: `sample_every` and `steps` of it.
        training: Of this worker.
        log: The first worker's; None on others.
    """

    def __init__(
        self, distill: DistillConfig, training: TrainingRun, log: MetricsLog | None
    ) -> None:
        self._distill, self._training, self._log = distill, training, log

    def after_step(self, step: int, result: StepResult) -> None:
        if not due(step, self._distill.sample_every, self._distill.steps):
            return
        training, device = self._training, self._training.step.accelerator.device
        with training.step.clock("picture"):
            with torch.autocast(device.type, HALF, enabled=self._distill.precision == "bf16"):
                rows = training.grid.rows(training.ema, training.state.networks["critic"])
                prompts = training.prompts.rows(training.ema) if training.prompts else {}
            if self._log is not None:
                self._log.grid(step, rows)
                if prompts:
                    self._log.prompts(step, prompts)
