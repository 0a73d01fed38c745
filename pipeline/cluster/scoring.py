"""Scores of a run's checkpoints, measured on the cluster while training goes on."""

import logging
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import ray
from ray.util.metrics import Gauge

from pipeline.cluster.session import user_errors
from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.runs.checkpoint_store import Commit, Score
from pipeline.runs.metrics_log import board_scores
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.stages.score import score
from pipeline.training.hooks import Hook
from pipeline.utils.errors import UserError

log = logging.getLogger(__name__)


class Scoring(Hook):
    """Has the newest checkpoint without a score measured, one at a time, by a Ray task.

    A hook of the driver, which outlives the workers. A task that fails costs its checkpoint the
    score and nothing else.

    Args:
        run: What is scored; without `distill.scoring.count` nothing is done.
    """

    def __init__(self, run: Run):
        self._run, self._scoring = run, run.config.distill.scoring
        self._left: set[str] = set()
        self._task: tuple[Commit, ray.ObjectRef] | None = None
        self._gauge = Gauge("dmd_fd_teacher", "Distillation: see docs/training.md.")

    def at_checkpoint(self, step: int) -> None:
        """Begin with it, unless another one is being measured.

        Raises:
            UserError: If the store refuses.
        """
        if self._task is None:
            self._begin()

    def poll(self) -> bool:
        """Take the result if it is there, and begin with the next checkpoint; raises the same.

        Returns:
            Whether a checkpoint is being measured now.
        """
        if self._task is not None and ray.wait([self._task[1]], timeout=0)[0]:
            self._take()
            self._begin()
        return self._task is not None

    def finish(self) -> None:
        """Measure what is still without a score, wait for it, and put it on the curves.

        Raises:
            UserError: If the store refuses.
        """
        while self._task is not None or self._begin():
            self._take()
        if self._scoring.count:
            board_scores(RunFolder(self._run.storage), self._run.checkpoints)

    def _begin(self) -> bool:
        if not self._scoring.count:
            return False
        commits = self._run.commits()
        scores = self._run.checkpoints.scores(commits)
        known = self._left | scores.keys()
        commit = next((each for each in commits if each.name not in known), None)
        if commit is None:
            return False
        task = _score.options(num_cpus=self._scoring.cpus, num_gpus=self._scoring.gpus)
        known_floors = (each.floor for each in scores.values() if each.n == self._scoring.count)
        settings, floor = self._run.config.model_dump(mode="json"), next(known_floors, None)
        self._task = commit, task.remote(settings, commit.name, floor)
        return True

    def _take(self) -> None:
        assert self._task is not None
        (commit, result), self._task = self._task, None
        try:
            with user_errors():
                found: Score = ray.get(result)
        except (UserError, ray.exceptions.RayError) as error:
            self._left.add(commit.name)
            log.warning("step %d has no score: %s", commit.step, error)
            return
        checkpoints = self._run.checkpoints
        checkpoints.note(commit, found)
        self._gauge.set(found.fd_teacher)
        best = checkpoints.best(self._run.commits())
        mark = "  the best so far" if best == commit else ""
        print(
            f"score    step {commit.step}  Fréchet distance to the teacher "
            f"{found.fd_teacher:.4g} (n {found.n}){mark}",
            flush=True,
        )


@ray.remote(max_retries=1)
def _score(settings: dict[str, Any], name: str, floor: float | None) -> Score:
    config = fetch_inputs(Config.model_validate(settings), "teacher")
    with redirect_stdout(StringIO()):  # the progress of its parts
        return score(config, name, floor)
