"""Curves and pictures as TensorBoard reads them."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pipeline.runs.board import Board


def records(folder: Path) -> list[Event]:
    """Of all files, by the format of TFRecord: length, its checksum, content, its checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_what_is_added_is_there_with_its_step(tmp_path: Path) -> None:
    board, pixels = Board(tmp_path, 5), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    board.text(4, "config", "**a**: 1")
    board.scalars(5, {"critic": 0.5, "student/norm": 2.0})
    board.image(6, "samples", pixels)
    board.close()
    first, began, *rest = records(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert (began.step, began.session_log.status) == (5, SessionLog.START)
    values = [(each.step, value) for each in rest for value in each.summary.value]
    assert [(step, value.tag.partition("/")[0]) for step, value in values] == [
        *((4, "config"), (5, "critic"), (5, "student"), (6, "samples"))
    ]
    assert [value.simple_value for _, value in values[1:3]] == [0.5, 2.0]
    assert values[0][1].tensor.string_val[0] == b"**a**: 1"
    shown = Image.open(io.BytesIO(values[3][1].image.encoded_image_string))
    assert np.array_equal(np.asarray(shown.convert("RGB")), pixels)


def test_a_board_without_a_step_leaves_older_points(tmp_path: Path) -> None:
    board = Board(tmp_path, suffix=".score-7")
    board.scalars(7, {"fd_teacher": 0.1})
    board.close()
    assert [each.WhichOneof("what") for each in records(tmp_path)] == ["file_version", "summary"]
    assert next(tmp_path.iterdir()).name.endswith(".score-7")


def test_a_full_disk_is_one_error_and_nothing_is_printed_after_it(tmp_path: Path) -> None:
    """In a process of its own, to its end: by a thread or at the exit there may be more."""
    code = f"""
import resource, signal
from pathlib import Path
from pipeline.runs.board import Board
board = Board(Path({str(tmp_path)!r}), 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    board.text(1, "config", "x" * 100_000)
    board.close()
except OSError:
    print("told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("told\n", "", 0)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        Board(tmp_path / "none")
