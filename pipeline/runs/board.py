"""Curves and pictures for TensorBoard, written by whoever adds them, in one file that grows.

tensorboardX's own `SummaryWriter` writes on a thread: what a full disk does there is a traceback.
It also begins a file at every start, and of several files in a folder TensorBoard reads the last.
"""

import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

FILE = "events.out.tfevents.run"
"""Name of the file; after those of before, which have a time in its place."""
FLUSH_SECONDS = 30.0
"""How long TensorBoard may not see what was added."""
_GROUPS = {
    "time": r"seconds_\w+|samples_per_second|tflops|mfu",
    "memory": r"memory_\w+",
    "optimizer": r"phase|lr_\w+|\w+_norm|skipped",
    "samples": r"sample_\w+",
    "eval": r"(fd|probe)_\w+",
}
"""Group -> names of its figures; all others are of losses."""


def tag(name: str) -> str:
    """A figure of the log as curves are called: its group before its name, as "loss/critic"."""
    found = (group for group, names in _GROUPS.items() if re.fullmatch(names, name))
    return f"{next(found, 'loss')}/{name}"


class Board:
    """The file of events in a folder, made or continued.

    Args:
        folder: That of the board, which is there.
        step: Points from this step on that are there already count no longer; None: all do.

    Raises:
        OSError: If it cannot be written; every method raises one too.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        self._file, self._flushed = _open(folder / FILE), 0.0
        if not self._file.tell():
            self._add(0, file_version="brain.Event:2")
        if step is not None:
            self._add(step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """A point on each curve."""
        for name, value in values.items():
            self._add(step, summary=summary.scalar(name, value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()
            self._flushed = time.monotonic()

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, (H, W, 3) in uint8."""
        self._add(step, summary=summary.image(name, pixels, dataformats="HWC"))

    def text(self, step: int, name: str, text: str) -> None:
        """Markdown."""
        self._add(step, summary=summary.text(name, text))

    def steps(self, name: str) -> set[int]:
        """Those at which a curve has points that count."""
        self._file.flush()
        found = set[int]()
        for event in _events(self._file):
            if event.session_log.status == SessionLog.START:
                found = {step for step in found if step < event.step}
            if any(value.tag == name for value in event.summary.value):
                found.add(event.step)
        self._file.seek(0, os.SEEK_END)
        return found

    def close(self) -> None:
        """Write what is still to be written."""
        with self._file:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _add(self, step: int, **what: Any) -> None:
        data = Event(wall_time=time.time(), step=step, **what).SerializeToString()
        size = struct.pack("<Q", len(data))
        parts = size, _checksum(size), data, _checksum(data)
        self._file.write(b"".join(parts))


def _open(path: Path) -> BinaryIO:
    """The file, ready for the record after its last whole one.

    Nothing behind a record that a killed process left half written would be read.
    """
    file = path.open("a+b")
    file.truncate(_whole(file, path.stat().st_size))
    file.seek(0, os.SEEK_END)
    return file


def _whole(file: BinaryIO, size: int) -> int:
    """Bytes of the whole records at the beginning of a TFRecord file."""
    return max(_ends(file, size), default=0)


def _ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Where each whole record ends."""
    end = 0
    while True:
        file.seek(end)
        head = file.read(12)
        if len(head) < 12 or head[8:] != _checksum(head[:8]):
            return
        after = end + 16 + int(struct.unpack("<Q", head[:8])[0])
        if after > size:
            return
        yield after
        end = after


def _events(file: BinaryIO) -> Iterator[Any]:
    """All that is in it."""
    begin = 0
    for end in _ends(file, os.fstat(file.fileno()).st_size):
        file.seek(begin + 12)
        yield Event.FromString(file.read(end - begin - 16))
        begin = end


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
