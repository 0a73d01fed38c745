"""Storing the state of a run and going on from it."""

import secrets
import time
from contextlib import ExitStack
from functools import partial

from accelerate.utils import broadcast_object_list

from pipeline.runs import checkpoint
from pipeline.runs.async_saver import AsyncSaver
from pipeline.runs.roll_back import drop
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.training.build import TrainingRun
from pipeline.training.hooks import Hook


def resume(run: Run, training: TrainingRun) -> int:
    """Restore the newest whole checkpoint; all workers call it.

    Args:
        run: Where the checkpoints are.
        training: What to restore, in place.

    Returns:
        Its number of steps, 0 without one.

    Raises:
        UserError: If there are checkpoints, and not one of this run that can be read.
        RuntimeError: If this worker does not see the checkpoint that the first one found.
    """
    main = training.step.accelerator.is_main_process
    if main:
        drop(run)
    with ExitStack() as stack:
        newest = partial(run.checkpoints.newest, fingerprint=training.fingerprint)
        found = stack.enter_context(newest()) if main else None
        chosen: list[str | None] = [found[0].name if found else None]
        broadcast_object_list(chosen)
        if chosen[0] is None:
            return 0
        for seconds in (0, 1, 5, 25):  # the others may see the first worker's files later
            if found is None:
                time.sleep(seconds)
                found = stack.enter_context(newest(only=chosen[0]))
        if found is None:
            raise RuntimeError(f"this worker does not see the checkpoint {chosen[0]}")
        commit, folder = found
        checkpoint.read(folder, training.state)
        return commit.step


class SaveCheckpoints(Hook):
    """Copies the state at a checkpoint and stores the copy while training goes on.

    Args:
        run: Where the checkpoints go.
        training: Of this worker.
        output: The run's folder, whose new files the first worker stores at the same time.
    """

    def __init__(self, run: Run, training: TrainingRun, output: RunFolder) -> None:
        self._training, self._output = training, output
        attempt = [secrets.token_hex(4)]
        broadcast_object_list(attempt)  # the first worker's, for all
        self._saver = AsyncSaver(
            run.checkpoints,
            attempt[0],
            training.fingerprint,
            training.step.accelerator.device,
            training.state,
        )

    def before_update(self, step: int) -> None:
        self._saver.before_change()

    def at_checkpoint(self, step: int) -> None:
        with self._training.step.clock("checkpoint"):
            self._saver.save(step)
            if self._training.step.accelerator.is_main_process:
                self._output.try_upload()

    def __exit__(self, *error: object) -> None:
        """Wait until the last one is stored."""
        self._saver.__exit__(*error)
