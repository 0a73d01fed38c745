"""A Ray head of its own on this machine, as `ray start --head` makes it, with token auth."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Head:
    """One head node; `kill` ends all its processes at once, `start` begins anew on the same ports.

    Args:
        folder: For its logs.
        options: More arguments of `ray start`.
        env: More settings of the environment.
    """

    def __init__(self, folder: Path, *options: str, **env: str):
        self.port, self.dashboard, agent, client = free_ports(4)
        self.folder, self._log = folder, folder / "head.log"
        self._options = (
            *("--port", str(self.port), "--dashboard-port", str(self.dashboard)),
            *("--dashboard-agent-listen-port", str(agent)),
            *("--ray-client-server-port", str(client), *options),
        )
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.env |= {"PATH": path, "RAY_AUTH_MODE": "token", **env}

    def start(self) -> None:
        """Start it, and wait until it takes jobs."""
        self._temp = tempfile.mkdtemp(prefix="rh")  # Ray's sockets need a short path
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [BIN / "ray", "start", "--head", "--block", "--temp-dir", self._temp]
                + [*self._options],
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + 90
        while self.ray("job", "list").returncode:
            assert self.process.poll() is None and time.monotonic() < end, self._log.read_text()
            time.sleep(1)

    def kill(self) -> None:
        """SIGKILL all its processes: the head's machine is gone."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        mark = self._temp.encode()
        for entry in Path("/proc").glob("[0-9]*"):  # workers have sessions of their own
            try:
                if mark in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
        shutil.rmtree(self._temp, ignore_errors=True)

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's command line against this head, from the repository root."""
        return self.begin(*arguments).wait_for_end()

    def begin(self, *arguments: str) -> "Command":
        """The same, not waited for."""
        return Command([str(BIN / "ray"), *arguments], self)

    def submit(self, *arguments: str) -> "Command":
        """`ray job submit --working-dir .` with these arguments, not waited for."""
        return self.begin("job", "submit", "--working-dir", ".", *arguments)


class Command:
    """A command that runs."""

    def __init__(self, command: list[str], head: Head):
        address = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{head.dashboard}"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=head.env | address,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait_for_end(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Its exit code and all that it printed."""
        printed, _ = self.process.communicate(timeout=seconds)
        return subprocess.CompletedProcess([], self.process.returncode, printed)


@contextmanager
def head(made: Head) -> Iterator[Head]:
    """Start a head that is gone after the block."""
    try:
        made.start()
        yield made
    finally:
        made.kill()
