"""The training loop of one worker: microbatches -> steps, with hooks beside them."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from accelerate import Accelerator

from pipeline.config import Config
from pipeline.diffusion import devices
from pipeline.methods.microbatch import Microbatch
from pipeline.models.attention_backend import refusals_named
from pipeline.runs import events
from pipeline.runs.metrics_log import BOARD, METRICS, MetricsLog
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.training.build import TrainingRun, prepare
from pipeline.training.checkpoints import SaveCheckpoints, resume
from pipeline.training.compilations import Compilations
from pipeline.training.detect import Detect, Measure
from pipeline.training.draw_samples import DrawSamples
from pipeline.training.hooks import EMA, Hook, Hooks, due, registered_hooks
from pipeline.training.ida import IDA
from pipeline.training.log_metrics import LogMetrics, LogScores
from pipeline.training.watchdog import Watchdog
from pipeline.utils.threads import ahead


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
        Steps done, of which a checkpoint is kept: all of them, unless it was to leave, or went back
        (`distill.on_failure`).

    Raises:
        UserError: If teacher, pairs, checkpoint or output folder cannot be used together, or
            the gradients stay without finite values.
    """
    distill, training, run = config.distill, prepare(config), Run(config)
    accelerator, output = training.step.accelerator, RunFolder(run.storage)
    done = start = resume(run, training)
    with ExitStack() as stack:
        stack.enter_context(refusals_named(distill.attention, "distill.attention"))
        log = stack.enter_context(_metrics_log(run, output, start, accelerator))
        detect = Detect(distill, run, log)
        own: list[Hook] = [
            EMA(training),
            *([IDA(distill.critic.ida, training)] if distill.critic.ida < 1 else []),
            Watchdog(distill.bad_steps, output.folder, accelerator),
            *registered_hooks(distill, training),
            Compilations(len(config.teacher.sizes) or 1),
            Measure(distill, training),
            LogMetrics(distill, training, log, show),
            detect,
            DrawSamples(distill, training, log),
            LogScores(run, log),
            SaveCheckpoints(run, training, output),
        ]
        hooks = Hooks(stack.enter_context(hook) for hook in own)
        drawn = stack.enter_context(closing(draw_ahead(training, range(start, distill.steps))))
        for done in range(start + 1, distill.steps + 1):
            with training.step.clock("data"):
                microbatches = next(drawn)
            result = training.step(
                done - 1, microbatches, hooks.after_student_update, hooks.before_update
            )
            hooks.after_step(done, result)
            if detect.goes_back:
                break
            leave = done < distill.steps and done % distill.log_every == 0 and leaving()
            if leave or due(done, distill.checkpoint_every, distill.steps):
                hooks.at_checkpoint(done)
            if leave:
                break
    return done if detect.back_to is None else detect.back_to


def draw_ahead(training: TrainingRun, steps: range) -> Generator[dict[int, Microbatch]]:
    """This worker's microbatches at every step, drawn on a thread while the step before runs."""
    begin = partial(devices.choose, training.step.accelerator.device)
    return ahead(training.microbatches, steps, 1, begin)


@contextmanager
def _metrics_log(
    run: Run, output: RunFolder, start: int, accelerator: Accelerator
) -> Iterator[MetricsLog | None]:
    """The first worker's log of metrics, stored with the run at the end; None on the others."""
    if not accelerator.is_main_process:
        yield None
        return
    settings = run.config.model_dump(mode="json")
    output.download(METRICS, BOARD, "skipped.jsonl", events.FILE)
    workers, device = accelerator.num_processes, accelerator.device
    try:
        with MetricsLog(run.config.distill, settings, output.folder, start, workers, device) as log:
            output.try_upload()
            yield log
    finally:
        output.try_upload(tries=4)
