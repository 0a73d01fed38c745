"""The real jobs without Ray, each in a fork of this process, which has imported everything.

Only what Ray does is replaced: actors and workers are the job's own process.
"""

import atexit
import ctypes
import fcntl
import functools
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import ray.train

from pipeline.cluster import distill, pool, signals
from pipeline.data import s3
from pipeline.data.storage import Storage
from pipeline.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_CALLS = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "mkdir", "rmdir"),
    *("link", "rename", "unlink", "unlinkat", "connect", "sendto", "recvfrom"),
)
"""Before one of these a job can be killed: what it does to files and to a store."""
_OUTPUT = 2**20
"""Bytes that a job may print."""
_ANY_TRACER = 0x59616D61, -1  # PR_SET_PTRACER, of any process: for users other than root

botocore.session.create_loader = functools.cache(botocore.session.create_loader)  # half a second


def run_job(
    job: str, flags: list[str], scratch: Path, at_step: Callable[[int], None] = lambda step: None
) -> int:
    """Run a script of jobs/ in this process; gives its exit code.

    Args:
        job: Its name.
        flags: Its arguments.
        scratch: Its TMPDIR.
        at_step: Called after each step of training but the last, which are counted from 1 on.
    """
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    s3._connect.cache_clear()  # a connection of the parent's
    _replace_ray(at_step)
    sys.argv = [job, *flags]
    try:
        runpy.run_path(str(ROOT / f"jobs/{job}.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def silently(function: Callable[[], int]) -> None:
    """Run a job in this process, so that the forks have all it imports; nothing is printed."""
    with redirect_stdout(StringIO()) as output, redirect_stderr(output):
        assert function() == 0, output.getvalue()


def _replace_ray(at_step: Callable[[int], None]) -> None:
    def rows(todo: list[int], work: pool.Work) -> Iterator[dict[str, Any]]:
        actor = pool.Actor(work)
        return ({"index": index, **actor.make(index)} for index in todo)

    def leaving(storage: Storage, driver: str) -> Callable[[], bool]:
        ask, steps = _LEAVING(storage, driver), count(1)

        def told() -> bool:
            at_step(next(steps))
            return ask()

        return told

    def fit(run: Run, driver: str, meanwhile: Callable[[], None]) -> BaseException | None:
        try:
            distill._worker(run.config.model_dump(mode="json"), driver)
        except Exception as error:
            return error
        return None

    pool._rows, distill._fit, distill.leaving = rows, fit, leaving
    distill.connect, distill.gauges = lambda: None, lambda: lambda figures: None
    signals.broadcast_from_rank_zero = lambda value: value
    ray.train.get_context = lambda: SimpleNamespace(get_world_rank=lambda: 0)
    ray.train.get_preemption_info = lambda: None


_LEAVING = signals.leaving


@dataclass(frozen=True)
class Ended:
    """How a job ended: exit code, or minus the signal that killed it, and the lines it printed."""

    code: int
    lines: list[str]


class Fork:
    """A function in a fork of this process, begun; its return value is the exit code.

    Args:
        function: What it does.
        file_size: Bytes that a file can have, as on a full disk.
        trace: Arguments of strace that watches it.
        seconds: How long it may take.
    """

    def __init__(
        self,
        function: Callable[[], int],
        file_size: int | None = None,
        trace: tuple[str, ...] = (),
        seconds: float = 240,
    ) -> None:
        self._seconds = seconds
        (self._output, output), (ready, go) = os.pipe(), os.pipe()
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _OUTPUT)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(go)
                os.read(ready, 1)
                os._exit(_child(function, file_size, output))
            finally:
                os._exit(70)
        os.close(ready)
        os.close(output)
        self._tracer = self._traced(trace) if trace else None
        os.close(go)

    def wait(self) -> Ended:
        """Wait for its end; one that hangs is killed with SIGALRM."""
        end = time.monotonic() + self._seconds
        while not (ended := os.waitpid(self._pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(self._pid, signal.SIGALRM)
            time.sleep(0.01)
        if self._tracer is not None:
            self._tracer.wait()
        with open(self._output, errors="replace") as output:
            return Ended(os.waitstatus_to_exitcode(ended[1]), output.read().splitlines())

    def _traced(self, trace: tuple[str, ...]) -> subprocess.Popen[bytes]:
        command = ["strace", "-f", "-qq", *trace, "-p", str(self._pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        status = Path(f"/proc/{self._pid}/status")
        while "TracerPid:\t0\n" in status.read_text():
            assert tracer.poll() is None, f"strace ended with {tracer.returncode}"
            time.sleep(0.005)
        return tracer


def _child(function: Callable[[], int], file_size: int | None, output: int) -> int:
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
    ctypes.CDLL(None).prctl(*_ANY_TRACER)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    try:
        return function()
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        atexit._run_exitfuncs()


def count_calls(function: Callable[[], int], file: Path) -> dict[str, int]:
    """How often one thread of a job makes each of the `SYSTEM_CALLS`, at most."""
    trace = ("-e", f"trace={','.join(SYSTEM_CALLS)}", "-o", str(file))
    ended = Fork(function, trace=trace).wait()
    assert ended.code == 0, ended.lines
    calls = Counter(re.findall(r"^(\d+) +(\w+)\(", file.read_text(), re.MULTILINE))
    most: dict[str, int] = {}
    for (_, call), number in calls.items():
        most[call] = max(number, most.get(call, 0))
    return most
