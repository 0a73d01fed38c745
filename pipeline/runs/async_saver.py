"""Checkpoints written while training goes on."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from pipeline.diffusion import devices
from pipeline.runs import checkpoint
from pipeline.runs.checkpoint import State
from pipeline.runs.checkpoint_store import CheckpointStore, Commit
from pipeline.runs.host_copy import HostCopy
from pipeline.utils import scratch
from pipeline.utils.errors import UserError

log = logging.getLogger(__name__)


class AsyncSaver:
    """Copies the state and stores the copy on a thread of its own; one checkpoint at a time.

    Every worker has one and calls it at the same steps. At the end of a `with` block, also by an
    error, what was begun is stored.

    Args:
        checkpoints: Where the checkpoints go.
        attempt: Name of this attempt, the same on every worker.
        fingerprint: Of all that defines the optimisation.
        device: The worker's.
        state: What is stored.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        attempt: str,
        fingerprint: str,
        device: torch.device,
        state: State,
    ):
        self.checkpoints, self.attempt, self.fingerprint = checkpoints, attempt, fingerprint
        many = dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if many else None
        self._rank = dist.get_rank() if many else 0
        self._thread = ThreadPoolExecutor(1, "checkpoint", devices.choose, (device,))
        self._pending: Future[None] | None = None
        self._copy = HostCopy(state)

    def save(self, step: int) -> None:
        """Begin to store the state after `step` steps, once the one before is stored.

        Call `before_change` before the state changes.

        Raises:
            UserError: If the one before could not be stored.
            RuntimeError: If another worker is gone.
        """
        self.wait()
        self._copy.begin()
        self._pending = self._thread.submit(self._store, step)

    def before_change(self) -> None:
        """Let the device change the state only once it is copied; returns at once."""
        self._copy.before_change()

    def wait(self) -> None:
        """Wait until what was begun is stored; raises as `save`."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def __enter__(self) -> "AsyncSaver":
        """Itself."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait, as `wait`; an error of the block stays the one that is raised."""
        try:
            self.wait()
        except Exception as own:
            if error[0] is None:
                raise
            log.warning("the last checkpoint was not stored: %s", own)
        finally:
            self._thread.shutdown(wait=False)

    def _store(self, step: int) -> None:
        commit = Commit(step, self.attempt, self.fingerprint, {})
        tensors = self._copy.wait()
        with scratch.temporary_folder() as folder:
            checkpoint.write(folder, tensors, self._group)
            try:
                result: dict[str, str] | str = self.checkpoints.add(folder, commit.name)
            except (UserError, OSError) as error:
                result = str(error)
        files: dict[str, str] = {}
        for each in self._gather(result):
            if isinstance(each, str):
                raise UserError(each)
            files |= each
        if self._rank == 0:
            self.checkpoints.commit(replace(commit, files=files))

    def _gather(self, result: dict[str, str] | str) -> list[dict[str, str] | str]:
        """Every worker's result, so that all know whether all have stored theirs."""
        if self._group is None:
            return [result]
        results: list[dict[str, str] | str] = [{}] * dist.get_world_size(self._group)
        dist.all_gather_object(results, result, self._group)
        return results
