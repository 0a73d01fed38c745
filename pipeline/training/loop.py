"""The training loop of one worker: lanes -> steps -> metrics, pictures, checkpoints."""

import math
import resource
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from pipeline.config import Config
from pipeline.runs import checkpoint, events
from pipeline.runs.async_saver import AsyncSaver
from pipeline.runs.metrics_log import MetricsLog
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.training.build import TrainingRun, prepare
from pipeline.training.clock import Clock
from pipeline.training.watchdog import Watchdog
from pipeline.utils.errors import UserError


def train(
    config: Config,
    leaving: Callable[[], bool] = lambda: False,
    show: Callable[[dict[str, float]], None] = lambda figures: None,
) -> int:
    """Train from the newest checkpoint, or from the teacher, to the last step.

    Args:
        config: Of the run.
        leaving: Whether to save and leave now. All workers call it together, every
            `distill.log_every` steps, and all get the same answer.
        show: Gets the first worker's figures at the same steps.

    Returns:
        Steps done, of which a checkpoint is kept: all of them, unless it was to leave.

    Raises:
        UserError: If teacher, pairs, checkpoint or output folder cannot be used together, or
            the gradients stay without finite values.
    """
    distill, training, run = config.distill, prepare(config), Run(config)
    accelerator, clock = training.step.accelerator, training.step.clock
    output, done = RunFolder(run.storage), _resume(run, training)
    start = done
    logged: list[dict[str, Tensor]] = []
    with ExitStack() as stack:
        recorder = None
        if accelerator.is_main_process:
            output.download("metrics.jsonl", "skipped.jsonl", events.FILE)
            stack.callback(output.try_upload)
            settings = config.model_dump(mode="json")
            workers, device = accelerator.num_processes, accelerator.device
            recorder = MetricsLog(distill, settings, output.folder, start, workers, device)
            stack.enter_context(recorder)
            output.try_upload()
        watchdog = Watchdog(distill.bad_steps, output.folder, accelerator)
        device = accelerator.device
        saver = AsyncSaver(run.checkpoints, _attempt(), training.fingerprint, device)
        stack.enter_context(saver)
        clock.split(1)
        for done in range(start + 1, distill.steps + 1):
            with clock("data"):
                lanes = training.lanes(done - 1)
            result = training.step(done - 1, lanes)
            watchdog.look(done, result)
            logged.append(result.figures)
            last, leave = done == distill.steps, False
            if last or done % distill.log_every == 0:
                leave = not last and leaving()
                figures = _figures(logged, accelerator) | {"skipped": watchdog.total}
                if recorder:
                    watchdog.drift(done, figures)
                    figures |= _costs(clock, len(logged), distill.batch_size, device)
                    recorder.scalars(done, figures)
                    show(figures)
                logged.clear()
            if last or done % distill.sample_every == 0:
                with clock("picture"):
                    # On every worker: sharded networks need them all.
                    with accelerator.autocast():
                        critic = training.state.networks["critic"]
                        rows = training.grid.rows(training.step.ema, critic)
                    if recorder:
                        recorder.grid(done, rows)
            if last or leave or done % distill.checkpoint_every == 0:
                with clock("checkpoint"):
                    saver.save(done, training.state)
                    if recorder:
                        output.try_upload()
            if leave:
                break
    return done


def _resume(run: Run, training: TrainingRun) -> int:
    """Restore the newest whole checkpoint; returns its number of steps, 0 without one.

    The first worker chooses; the others may see its files a little later.
    """
    accelerator = training.step.accelerator
    with ExitStack() as stack:
        found = (
            stack.enter_context(run.checkpoints.newest()) if accelerator.is_main_process else None
        )
        chosen: list[str | None] = [found[0].name if found else None]
        broadcast_object_list(chosen)
        if chosen[0] is None:
            return 0
        for seconds in (0, 1, 5, 25):
            if found is None:
                time.sleep(seconds)
                found = stack.enter_context(run.checkpoints.newest(only=chosen[0]))
        if found is None:
            raise RuntimeError(f"this worker does not see the checkpoint {chosen[0]}")
        commit, folder = found
        if commit.fingerprint != training.fingerprint:
            raise UserError(
                f"distill.output: {run.storage.uri()} holds a run with other settings; "
                "choose another folder, or remove it"
            )
        checkpoint.read(folder, training.state)
        return commit.step


def _attempt() -> str:
    """A name for this start of the workers, the same for all."""
    name: list[str] = [secrets.token_hex(4)]
    broadcast_object_list(name)
    return name[0]


def _costs(clock: Clock, steps: int, batch: int, device: torch.device) -> dict[str, float]:
    """Time of a step by its parts, samples per second, and the most memory this worker held."""
    split = clock.split(steps)
    if device.type == "cuda":
        held = torch.cuda.max_memory_allocated(device)
    else:
        held = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = batch / split["seconds_step"]
    return {**split, "samples_per_second": rate, "memory_gib": held / 2**30}


def _figures(logged: list[dict[str, Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Means over the steps that have the figure, finite, summed over the workers' shares."""
    names = sorted({name for each in logged for name in each})
    means = []
    for name in names:
        values = torch.stack([each[name] for each in logged if name in each]).float()
        means.append(values[values.isfinite()].mean())  # not a number if there is none
    total = accelerator.reduce(torch.stack(means), reduction="sum").tolist()
    return {name: value for name, value in zip(names, total, strict=True) if math.isfinite(value)}
