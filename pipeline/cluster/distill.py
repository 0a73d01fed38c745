"""The distill job: Ray Train workers, each of them reader -> loop -> checkpoints."""

import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.train import ScalingConfig
from ray.util.metrics import Gauge

from pipeline.cluster.group import fit_group
from pipeline.cluster.room import Asked, Waiting
from pipeline.cluster.scoring import Scoring
from pipeline.cluster.session import connect
from pipeline.cluster.signals import Signals, leaving, stoppable
from pipeline.config import Config, WorkersConfig
from pipeline.data.lease import Lease
from pipeline.runs.roll_back import rolled_back
from pipeline.runs.run import Run
from pipeline.stages.plan import guidance_hints
from pipeline.training import loop
from pipeline.utils.errors import CodeError, StoppedError, UserError, first_line

RESTARTS = 3
"""How often in a row it begins again after a failure without a new checkpoint."""

LOOK_SECONDS = 5.0
"""How often the driver looks for a new checkpoint or a score."""

RESIZE_SECONDS = 60.0
"""How often a smaller group than the largest looks for new room."""

log = logging.getLogger(__name__)


def distill(config: Config) -> None:
    """Train the student and save it as a diffusers folder; run again, it goes on.

    Raises:
        UserError: If teacher, pairs and output do not belong together or cannot be used, or
            another driver trains this run.
        StoppedError: If the job was stopped before its last step.
    """
    run = Run(config)
    for hint in run.hints():
        print(f"distill  {hint}")
    if run.is_finished():
        print(f"distill  {config.distill.output} is finished already")
        return
    for hint in guidance_hints(run.local.teacher, config.pairs.guidance):
        print(f"distill  {hint}")
    with Lease(run.storage) as lease:
        run.sweep()
        run.claim()
        run.keep_settings()
        connect()
        scoring = Scoring(run)
        watch, signals = CheckpointWatch(run, scoring), Signals(run.storage, lease.token)
        workers = config.distill.workers
        asked = Asked("distill.workers", workers.min, workers.cpus, workers.gpus)
        asked.check()
        waiting = Waiting("distill", asked, signals.has_begun)

        def meanwhile() -> None:
            lease.check()
            watch.look()
            if waiting.look() and stopped.is_set():
                raise StoppedError("stopped with no worker at work; run the same command to go on")

        with stoppable(signals) as stopped:
            _until_finished(run, signals, stopped, meanwhile)
        scoring.finish()
        run.finish()
        run.sweep()
    print(f"distill  saved {config.distill.output}/student")


class CheckpointWatch:
    """Tells the scoring of new checkpoints: the driver sees those that are stored.

    Args:
        run: Whose checkpoints; without `distill.scoring.count` nothing is looked at.
        scoring: Its `at_checkpoint` is called for the newest one, and `poll` at every look.
    """

    def __init__(self, run: Run, scoring: Scoring) -> None:
        self._run, self._scoring = run, scoring
        self._wanted = run.config.distill.scoring.count > 0
        self._seen, self._next = "", 0.0

    def look(self) -> None:
        """Look, if it is time; never fails. While one is measured the store is left alone."""
        if not self._wanted or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        try:
            if self._scoring.poll():  # it finds the newest itself when it is done
                return
            newest = next(iter(self._run.commits()), None)
            if newest is not None and newest.name != self._seen:
                self._scoring.at_checkpoint(newest.step)
                self._seen = newest.name
        except UserError as error:
            self._seen = ""  # told again
            log.warning("%s: looked again later", error)


def _until_finished(
    run: Run, signals: Signals, stopped: threading.Event, meanwhile: Callable[[], None]
) -> None:
    """Fit again after a failure, a leave or a roll-back, as long as new checkpoints come.

    A fault in the code may be one of a machine once; the same one again ends the run.
    """
    done, failures, fault = run.step(), 0, ""
    while done < run.config.distill.steps:
        signals.forget_group()
        before, back = done, rolled_back(run)
        failure, done = _fit(run, signals.driver, meanwhile), run.step()
        if isinstance(failure, UserError):
            if not isinstance(failure, CodeError) or str(failure) == fault:
                raise failure
            fault = str(failure)
        if stopped.is_set():
            raise StoppedError(f"stopped at step {done}; run the same command to go on")
        if failure is None:
            if done > before or rolled_back(run) != back:
                continue
            failure = RuntimeError("the workers left without a checkpoint")
        failures = 1 if done > before else failures + 1
        if failures > RESTARTS:
            raise failure
        log.warning("the workers failed (%s): starting again at step %d", first_line(failure), done)
        run.log_restart(done, first_line(failure))


def _fit(run: Run, driver: str, meanwhile: Callable[[], None]) -> BaseException | None:
    """Run one group of workers to its end; returns what it failed with."""
    settings = {"settings": run.config.model_dump(mode="json"), "driver": driver}
    scaling = _scaling(run.config.distill.workers)
    return fit_group(_worker, settings, scaling, "distill", meanwhile)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""What a disk says that another try would not mend, whoever writes: hooks may be anyone's."""


def _scaling(workers: WorkersConfig) -> ScalingConfig:
    """As many workers as the cluster holds, within the configured range, now and later."""
    each = {name: n for name, n in (("CPU", workers.cpus), ("GPU", workers.gpus)) if n}
    least, most = workers.min, workers.max
    return ScalingConfig(
        num_workers=(least, most) if least < most else most,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        use_gpu=workers.gpus > 0,
        resources_per_worker=each,
    )


def _worker(settings: dict[str, Any], driver: str) -> None:
    """What runs on every worker."""
    config = Config.model_validate(settings)
    torch.set_num_threads(max(1, int(config.distill.workers.cpus)))
    run = Run(config)
    if not run.is_claimed():
        node = ray.util.get_node_ip_address()
        raise UserError(
            f"distill.output: node {node} does not see {config.distill.output}; give a folder that "
            "all nodes share, or s3://bucket/prefix"
        )
    Signals(run.storage, driver).begin()
    try:
        loop.train(run.local, leaving(run.storage, driver), gauges())
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"distill.output: cannot write {config.distill.output}: {error.strerror}; free space "
            "or choose another folder, then run the same command again"
        ) from error


def gauges() -> Callable[[dict[str, float]], None]:
    """Shows figures as metrics of the Ray cluster: ray_dmd_<name>."""
    gauges: dict[str, Gauge] = {}

    def show(figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if name not in gauges:
                gauges[name] = Gauge(f"dmd_{name}", "Distillation: see docs/training.md.")
            gauges[name].set(value)

    return show
