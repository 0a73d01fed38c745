"""A job in a process of its own, which can be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_homes = count()


class Job:
    """A script of this repository, in a session of its own and with its own Ray files."""

    def __init__(self, log: Path, command: list[str], env: dict[str, str]) -> None:
        # Ray's sockets need a short path; a new folder for every job of all tests, so that no
        # other cluster is joined, nor waited for where a killed one has left its address.
        home = f"/tmp/ray-test-{os.getpid()}-{next(_homes)}"
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=os.environ | {"RAY_TMPDIR": home} | env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL the driver and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 200) -> None:
        """Wait until something holds, while the job goes on."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < end, self.tail()
            time.sleep(0.05)

    def finish(self, code: int = 0, seconds: float = 300) -> list[str]:
        """Wait for the end with this exit code; gives the lines it printed."""
        assert self.process.wait(timeout=seconds) == code, self.tail()
        return self.log.read_text().splitlines()

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text()[-3000:]
