"""Curves and pictures for TensorBoard, written by whoever adds them.

tensorboardX's own `SummaryWriter` writes on a thread: what a full disk does there is a traceback.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

FLUSH_SECONDS = 30.0
"""How long TensorBoard may not see what was added."""


class Board:
    """A file of events in a folder.

    Args:
        folder: That of the board, which is there.
        step: Points from this step on that are in older files count no longer; None: all do.
        suffix: Of the file's name.

    Raises:
        OSError: If it cannot be written; every method raises one too.
    """

    def __init__(self, folder: Path, step: int | None = None, suffix: str = "") -> None:
        self._events, self._flushed = EventsWriter(str(folder / "events"), suffix), 0.0
        if step is not None:
            self._add(step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """A point on each curve."""
        for name, value in values.items():
            self._add(step, summary=summary.scalar(name, value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, (H, W, 3) in uint8."""
        self._add(step, summary=summary.image(name, pixels, dataformats="HWC"))

    def text(self, step: int, name: str, text: str) -> None:
        """Markdown."""
        self._add(step, summary=summary.text(name, text))

    def close(self) -> None:
        """Write what is still to be written."""
        self._events.close()

    def _add(self, step: int, **what: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **what))
