"""The training loop of one worker: lanes -> steps -> metrics, pictures, checkpoints."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import Config
from pipeline.distill import checkpoint
from pipeline.distill.record import Recorder
from pipeline.distill.setup import Training, prepare


@dataclass(frozen=True)
class Cluster:
    """What the loop asks of the cluster it runs on.

    Attributes:
        resume: Folder of the newest checkpoint; None in a new run.
        report: Hands over the number of steps done and, on the first worker, a folder to keep
            as their checkpoint; every worker calls it equally often.
    """

    resume: Path | None
    report: Callable[[int, Path | None], None]


def run(config: Config, cluster: Cluster) -> None:
    """Train from the newest checkpoint, or from the teacher, to the last step.

    Raises:
        UserError: If teacher, pairs, checkpoint or output folder cannot be used together.
    """
    distill, training = config.distill, prepare(config)
    accelerator = training.step.accelerator
    start = 0
    if cluster.resume is not None:
        start = checkpoint.load(cluster.resume, training.fingerprint, training.state)
    mine = range(accelerator.process_index, distill.lanes, accelerator.num_processes)
    logged: list[dict[str, Tensor]] = []
    with ExitStack() as stack:
        recorder = None
        if accelerator.is_main_process:
            recorder = stack.enter_context(Recorder(Path(distill.output), start, distill.steps))
        for done in range(start + 1, distill.steps + 1):
            lanes = [training.lane(done - 1, number) for number in mine]
            logged.append(training.step(done - 1, lanes))
            last = done == distill.steps
            if last or done % distill.log_every == 0:
                figures = _figures(logged, accelerator)
                logged.clear()
                if recorder:
                    recorder.scalars(done, figures)
            if recorder and (last or done % distill.sample_every == 0):
                recorder.grid(done, training.grid.rows(training.step.ema, training.state["critic"]))
            if last or done % distill.checkpoint_every == 0:
                _checkpoint(done, training, cluster, recorder is not None)


def _figures(logged: list[dict[str, Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Means over the steps that have the figure, summed over the workers' shares."""
    names = sorted({name for each in logged for name in each})
    means = [
        torch.stack([each[name] for each in logged if name in each]).mean().float()
        for name in names
    ]
    total = accelerator.reduce(torch.stack(means), reduction="sum")
    return dict(zip(names, total.tolist(), strict=True))


def _checkpoint(done: int, training: Training, cluster: Cluster, first: bool) -> None:
    if not first:
        cluster.report(done, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), done, training.fingerprint, training.state)
        cluster.report(done, Path(folder))
