"""The distill job: Ray Train workers, each of them reader -> loop -> checkpoints."""

import errno
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.train import ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.util.metrics import Gauge

from pipeline.cluster.group import fit_group
from pipeline.cluster.scoring import Scoring
from pipeline.cluster.session import connect
from pipeline.config import Config, WorkersConfig
from pipeline.data.fetch import fetch_inputs
from pipeline.data.lease import Lease, is_held
from pipeline.data.storage import Storage
from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.utils.errors import StoppedError, UserError, first_line

RESTARTS = 3
"""How often in a row it begins again after a failure without a new checkpoint."""

DEBOUNCE_SECONDS = 1.0
"""Within which a second signal is the first one."""

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
    with Lease(run.storage) as lease:
        run.sweep()
        run.claim()
        run.keep_settings()
        connect()
        scoring = Scoring(run)
        watch = CheckpointWatch(run, scoring)

        def meanwhile() -> None:
            lease.check()
            watch.look()

        with _stoppable(run.storage) as stopped:
            _until_finished(run, lease.token, stopped, meanwhile)
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
    run: Run, driver: str, stopped: threading.Event, meanwhile: Callable[[], None]
) -> None:
    """Fit again after a failure or a leave, as long as new checkpoints come."""
    done, failures = run.step(), 0
    while done < run.config.distill.steps:
        before, failure = done, _fit(run, driver, meanwhile)
        done = run.step()
        if isinstance(failure, UserError):
            raise failure
        if stopped.is_set():
            raise StoppedError(f"stopped at step {done}; run the same command to go on")
        if failure is None:
            if done > before:
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


@contextmanager
def _stoppable(storage: Storage) -> Iterator[threading.Event]:
    """While the block runs, the first SIGTERM or Ctrl-C has the workers save and leave.

    The event is set then; a later one ends the driver at once. (`timeout` sends each twice.)
    """
    stopped, first = threading.Event(), 0.0
    storage.delete(_STOP)

    def stop(number: int, frame: object) -> None:
        nonlocal first
        if stopped.is_set():
            if time.monotonic() - first < DEBOUNCE_SECONDS:
                return
            raise KeyboardInterrupt
        stopped.set()
        first = time.monotonic()
        print("distill  stopping: the workers save a checkpoint; again to end at once", flush=True)
        try:
            storage.put(_STOP, b"")
        except UserError as error:
            print(f"distill  cannot tell the workers: {error}", flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        storage.delete(_STOP)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""What a disk says that another try would not mend, whoever writes: hooks may be anyone's."""

_STOP = "stop"
"""The object in the run's folder that tells the workers to leave."""


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
    config = fetch_inputs(Config.model_validate(settings), "teacher")
    torch.set_num_threads(max(1, int(config.distill.workers.cpus)))
    run = Run(config)
    if not run.is_claimed():
        node = ray.util.get_node_ip_address()
        raise UserError(
            f"distill.output: node {node} does not see {config.distill.output}; give a folder that "
            "all nodes share, or s3://bucket/prefix"
        )
    try:
        loop.train(config, leaving(run.storage, driver), gauges())
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"distill.output: cannot write {config.distill.output}: {error.strerror}; free space "
            "or choose another folder, then run the same command again"
        ) from error


def leaving(storage: Storage, driver: str) -> Callable[[], bool]:
    """Asks whether the driver was stopped, or a node of the group is about to be taken away.

    Args:
        storage: Of the run.
        driver: Token of the driver's lease.

    Raises:
        UserError: When it asks, if another driver works on the run: this group's own was killed.
    """
    first = ray.train.get_context().get_world_rank() == 0

    def told() -> bool:
        if not first:
            return False
        try:
            stopped, held = _STOP in storage.list(_STOP), is_held(storage, driver)
        except UserError as error:
            log.warning("%s: asked again later", error)
            return False
        if not held:
            raise UserError(f"distill.output: another driver works on {storage.uri()}")
        return stopped

    def ask() -> bool:
        stopped = broadcast_from_rank_zero(told())
        preempted = ray.train.get_preemption_info() is not None
        if first and preempted:
            print("distill  a node is about to be taken away: saving, then on with the others")
        return stopped or preempted

    return ask


def gauges() -> Callable[[dict[str, float]], None]:
    """Shows figures as metrics of the Ray cluster: ray_dmd_<name>."""
    gauges: dict[str, Gauge] = {}

    def show(figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if name not in gauges:
                gauges[name] = Gauge(f"dmd_{name}", "Distillation: see docs/training.md.")
            gauges[name].set(value)

    return show
