"""What a run's driver and its workers tell each other: that these work, and shall leave."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.train.collective import broadcast_from_rank_zero

from pipeline.data.lease import is_held
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError

DEBOUNCE_SECONDS = 1.0
"""Within which a second signal is the first one."""
_BEGAN, _STOP = "began-", "stop-"

log = logging.getLogger(__name__)


class Signals:
    """Empty objects in the run's folder, named after the driver's lease: of no other driver.

    Args:
        storage: Of the run.
        driver: Token of the driver's lease.

    Every method raises UserError where the store refuses, but `has_begun`.
    """

    def __init__(self, storage: Storage, driver: str) -> None:
        self.driver, self._storage, self._begun = driver, storage, False
        self._began, self._stop = f"{_BEGAN}{driver}", f"{_STOP}{driver}"

    def begin(self) -> None:
        """Of a worker: its group has begun."""
        self._storage.put(self._began, b"")

    def has_begun(self) -> bool:
        """Whether a group has begun, as far as is known, since the last one was forgotten."""
        if not self._begun:
            try:
                self._begun = self._has(self._began)
            except UserError as error:
                log.warning("%s: asked again later", error)
                return True
        return self._begun

    def forget_group(self) -> None:
        """Of the driver, before the next group."""
        self._storage.delete(self._began)
        self._begun = False

    def stop(self) -> None:
        """Of the driver: the workers shall save and leave."""
        self._storage.put(self._stop, b"")

    def is_stopped(self) -> bool:
        """Whether the workers shall leave."""
        return self._has(self._stop)

    def clear(self) -> None:
        """Take all back, of drivers that were killed too."""
        for name in (*self._storage.list(_BEGAN), *self._storage.list(_STOP)):
            self._storage.delete(name)

    def _has(self, name: str) -> bool:
        return name in self._storage.list(name)


@contextmanager
def stoppable(signals: Signals) -> Iterator[threading.Event]:
    """While the block runs, the first SIGTERM or Ctrl-C has the workers save and leave.

    The event is set then; a later one ends the driver at once. (`timeout` sends each twice.)
    """
    stopped, first = threading.Event(), 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal first
        if stopped.is_set():
            if time.monotonic() - first < DEBOUNCE_SECONDS:
                return
            raise KeyboardInterrupt
        stopped.set()
        first = time.monotonic()
        print(
            "distill  stopping: workers that have begun save a checkpoint; again to end at once",
            flush=True,
        )
        try:
            signals.stop()
        except UserError as error:
            print(f"distill  cannot tell the workers: {error}", flush=True)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        signals.clear()
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signals.clear()


def leaving(storage: Storage, driver: str) -> Callable[[], bool]:
    """Asks whether the driver was stopped, or a node of the group is about to be taken away.

    Args:
        storage: Of the run.
        driver: Token of the driver's lease.

    Raises:
        UserError: When it asks, if another driver works on the run: this group's own was killed.
    """
    signals = Signals(storage, driver)
    first = ray.train.get_context().get_world_rank() == 0

    def told() -> bool:
        if not first:
            return False
        try:
            stopped, held = signals.is_stopped(), is_held(storage, driver)
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
