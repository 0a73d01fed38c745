"""Curves and pictures as TensorBoard reads them."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pipeline.methods.terms import TERMS
from pipeline.runs.board import FILE, Board, tag


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


def write(folder: Path, step: int | None, values: dict[int, float]) -> None:
    board = Board(folder, step)
    for at, value in values.items():
        board.scalars(at, {"loss/critic": value})
    board.close()


def curve(folder: Path) -> list[tuple[int, float]]:
    """As TensorBoard itself reads it."""
    found = EventAccumulator(str(folder)).Reload().Scalars("loss/critic")
    return [(each.step, each.value) for each in found]


def test_points_behind_a_start_that_went_back_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, None, {2: 1.0, 4: 1.0, 6: 1.0})
    board = Board(tmp_path, 5)
    assert board.steps("loss/critic") == {2, 4} and not board.steps("loss/student")
    board.scalars(8, {"loss/critic": 2.0})
    assert board.steps("loss/critic") == {2, 4, 8}
    board.close()
    assert [step for step, _ in curve(tmp_path)] == [2, 4, 8]


def test_a_board_without_a_step_leaves_older_points(tmp_path: Path) -> None:
    write(tmp_path, None, {7: 1.0, 8: 2.0})
    write(tmp_path, None, {7: 3.0})
    kinds = [each.WhichOneof("what") for each in records(tmp_path)]
    assert kinds == ["file_version", "summary", "summary", "summary"]
    assert curve(tmp_path) == [(7, 1.0), (8, 2.0), (7, 3.0)]


def test_a_resume_goes_on_in_the_one_file_and_replaces_later_points(tmp_path: Path) -> None:
    write(tmp_path, 1, {2: 1.0, 4: 2.0, 6: 3.0})
    write(tmp_path, 5, {6: 4.0, 8: 5.0})
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert curve(tmp_path) == [(2, 1.0), (4, 2.0), (6, 4.0), (8, 5.0)]


@pytest.mark.parametrize("lost", [1, 5, 12, 20, 30])
def test_a_record_that_a_kill_left_half_written_costs_itself_alone(
    tmp_path: Path, lost: int
) -> None:
    write(tmp_path, 1, {2: 1.0, 4: 2.0})
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-lost])
    write(tmp_path, 3, {4: 3.0, 6: 4.0})
    assert curve(tmp_path) == [(2, 1.0), (4, 3.0), (6, 4.0)]


@pytest.mark.parametrize("rest", [b"", b"no events", bytes(50)])
def test_what_is_no_file_of_events_is_begun_anew(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / FILE).write_bytes(rest)
    write(tmp_path, 1, {2: 1.0})
    assert curve(tmp_path) == [(2, 1.0)]


def test_figures_have_their_group() -> None:
    known = {
        *("loss/regression", "loss/matching_gradient", "optimizer/critic_norm", "time/mfu"),
        *("optimizer/lr_critic", "optimizer/phase", "samples/sample_std", "time/seconds_step"),
        *("eval/fd_teacher", "eval/probe_contrast", "memory/memory_gib"),
    }
    assert {tag(name.partition("/")[2]) for name in known} == known
    assert {tag(name) for name in TERMS} == {f"loss/{name}" for name in TERMS}


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
