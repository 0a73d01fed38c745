"""One driver at a time: who works on a run or a set says so, and says again that it still does."""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter, ValidationError

from pipeline.data.storage import Storage
from pipeline.utils import scratch
from pipeline.utils.errors import UserError

NAME = "driver.json"
BEAT_SECONDS = 10.0
"""How often a driver says that it still works."""
_TRIES = 3
"""Of giving a lease back, to a store that may answer wrongly."""
PATIENCE = 3
"""Beats without a word after which another driver takes it for gone."""


@dataclass(frozen=True)
class Driver:
    """Who works on it.

    Attributes:
        host: Name of its machine.
        machine: Tells its machine, and its container there, from others.
        pid: Of its process.
        since: When it began, in UTC.
        token: Of this lease alone.
        beat: How often it has said that it still works.
    """

    host: str
    machine: str
    pid: int
    since: str
    token: str
    beat: int

    def is_gone(self) -> bool:
        """Whether it is known to have ended: only of a process on this machine."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return self.pid == os.getpid() and self.token not in _HELD


_DRIVER = TypeAdapter(Driver)
_HELD: set[str] = set()
"""Tokens of the leases of this process."""


class Lease:
    """Held while a `with` block runs. One of a driver that died is taken over.

    Args:
        storage: Of what is worked on.

    Raises:
        UserError: At the beginning of the block, if another driver works on it: names it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage, self._ended, self._lost = storage, threading.Event(), False
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        token = secrets.token_hex(8)
        self._mine = Driver(socket.gethostname(), _machine(), os.getpid(), since, token, 0)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    @property
    def token(self) -> str:
        """Tells it from others."""
        return self._mine.token

    def check(self) -> None:
        """See that no other driver has taken it over, as one does where beats fail for long.

        Raises:
            UserError: If one has.
        """
        if self._lost:
            raise UserError(
                f"{self._storage.setting}: another driver has taken {self._storage.uri()} over, "
                "for nothing was heard of this one for long"
            )

    def __enter__(self) -> "Lease":
        """Take it, once whoever held it is gone."""
        _HELD.add(self._mine.token)
        while not self._storage.put(NAME, self._dump(self._mine)):
            self._await_end()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        _HELD.discard(self._mine.token)
        for _ in range(_TRIES):  # else the next driver waits
            found = self._read()
            if found is not None and found.token != self._mine.token:
                continue  # another's, or an answer out of date
            with suppress(UserError):
                self._storage.delete(NAME)
                if NAME not in self._storage.list(NAME):
                    return

    def _await_end(self) -> None:
        """Return once the driver that is there has given it back, or is gone and removed.

        Raises:
            UserError: If it still works.
        """
        first = found = self._read()
        if first is not None and not first.is_gone():
            seconds = PATIENCE * BEAT_SECONDS
            print(
                f"{self._describe(first)}: looking for up to {seconds:.0f} s whether it still does"
            )
            deadline = time.monotonic() + seconds
            while found == first and time.monotonic() < deadline:
                time.sleep(BEAT_SECONDS / 10)
                found = self._read()
        if found is None or first is None or found.token != first.token:
            return
        if found != first:
            raise UserError(f"{self._describe(found)}: stop it first, or choose another folder")
        self._storage.delete(NAME)

    def _describe(self, driver: Driver) -> str:
        return (
            f"{self._storage.setting}: {self._storage.uri()} is in use: process {driver.pid} on "
            f"{driver.host} has worked on it since {driver.since} UTC"
        )

    def _read(self) -> Driver | None:
        """Who holds it; None if nobody does."""
        try:
            found = self._storage.get(NAME) if NAME in self._storage.list(NAME) else None
        except UserError:  # it was removed meanwhile
            return None
        try:
            return None if found is None else _DRIVER.validate_json(found)
        except ValidationError:
            return Driver("an unknown machine", "", 0, "an unknown time", "", 0)

    def _beat(self) -> None:
        for beat in range(1, 2**63):
            if self._ended.wait(BEAT_SECONDS):
                return
            try:
                found = self._read()
                if found is not None and found.token != self._mine.token:
                    self._lost = True
                    return
                self._write(beat)
            except (UserError, OSError):
                continue  # the next beat may be heard

    def _write(self, beat: int) -> None:
        with scratch.temporary_folder() as folder:
            file = Path(folder, NAME)
            file.write_bytes(self._dump(Driver(**{**asdict(self._mine), "beat": beat})))
            self._storage.upload(file, NAME)

    @staticmethod
    def _dump(driver: Driver) -> bytes:
        return (json.dumps(asdict(driver)) + "\n").encode()


def is_held(storage: Storage, token: str) -> bool:
    """Whether no other driver than that of this token works on it now; raises as `Storage`."""
    if NAME not in storage.list(NAME):
        return True
    try:
        return _DRIVER.validate_json(storage.get(NAME)).token == token
    except ValidationError:
        return True


def _machine() -> str:
    """One boot of one machine, and one container there: where process numbers mean the same."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
