"""When a run began, went on, failed and ended: `events.jsonl`, which is only ever added to."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import TypeAdapter

from pipeline.utils.errors import UserError
from pipeline.utils.untrusted import read_lines

FILE = "events.jsonl"
Kind = Literal["start", "end", "left", "failed", "restart", "finding", "roll_back"]
_PACKAGES = ("ray-dmd", "torch", "ray", "diffusers", "accelerate")


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        kind: start: workers began; end: they did all steps; left: they saved and left; failed:
            an error ended them; restart: the driver saw them fail, and has new ones begin;
            finding: a detector found the run failing; roll_back: it goes on from `step`.
        time: Seconds since 1970.
        step: Steps done; at a start, those that the checkpoint holds.
        workers: Of the group, at its start.
        reached: At a start, steps that the attempt before had logged, if they were more; of a
            roll-back, those done.
        reached_at: Time of that log line.
        error: What ended the workers.
        detector: Of a finding, its name.
        text: Of a finding, what is wrong and the way out.
        machine: Of the first worker, at its start.
    """

    kind: Kind
    time: float
    step: int
    workers: int | None = None
    reached: int | None = None
    reached_at: float | None = None
    error: str | None = None
    detector: str | None = None
    text: str | None = None
    machine: dict[str, str] = field(default_factory=dict)


read_event = TypeAdapter(Event).validate_python
"""An event of the plain values of its line; raises ValueError if they make none."""


def note(folder: Path, event: Event) -> None:
    """Add an event to the file of a run's folder.

    Raises:
        UserError: If it cannot be written.
    """
    fields = {name: value for name, value in asdict(event).items() if value not in (None, {})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("ab+") as lines:
            if lines.tell() and not _ends_a_line(lines):
                lines.write(b"\n")
            lines.write(f"{json.dumps(fields)}\n".encode())
    except OSError as error:
        raise UserError(f"distill.output: cannot write {folder / FILE}: {error}") from error


def noted(folder: Path) -> list[Event]:
    """The events in the file of a run's folder; damaged lines are left out."""
    file = folder / FILE
    return read_lines(file.read_bytes(), read_event)[0] if file.exists() else []


def _ends_a_line(file: BinaryIO) -> bool:
    """Whether the last line is whole: a killed process may leave a part of one."""
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def now(kind: Kind, step: int, error: str = "") -> Event:
    """An event of this moment."""
    return Event(kind, time.time(), step, error=error or None)


def machine(gpu: str | None) -> dict[str, str]:
    """What this process runs on, each thing in a few words; nothing that names the machine.

    Args:
        gpu: Kind of the GPU in use, or None.
    """
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{gib:.0f} GiB",
    }
    if gpu:
        found["GPU"] = gpu
    found["Python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
