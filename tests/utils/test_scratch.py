"""Temporary files and folders, of processes that live and of those that were killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import S3Config
from pipeline.data.local import LocalStore
from pipeline.data.storage import Storage
from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import check_writable, write_file

HOLD = """
import sys, time
from pathlib import Path
from pipeline.utils import scratch
with scratch.{kind}(Path(sys.argv[1], "a", "result")):
    print("held", flush=True)
    time.sleep(60)
"""


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["file_beside", "folder_beside"])
def test_what_a_killed_process_left_is_swept_and_what_is_held_stays(tmp_path, kind):
    (tmp_path / "a").mkdir()
    foreign = tmp_path / "a" / ".result.0123"
    foreign.touch()
    run = [sys.executable, "-c", HOLD.format(kind=kind), str(tmp_path)]
    with subprocess.Popen(run, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        scratch.sweep(tmp_path, deep=True)
        held = [path for path in (tmp_path / "a").iterdir() if path != foreign]
        assert len(held) == 1
        if kind == "folder_beside":
            (held[0] / "half").write_bytes(b"half")
        process.send_signal(signal.SIGKILL)
    scratch.sweep(tmp_path)  # not in the folders
    assert held[0].exists()
    scratch.sweep(tmp_path, deep=True)
    assert list((tmp_path / "a").iterdir()) == [foreign]


@pytest.mark.parametrize("ends", [True, False])
def test_nothing_remains_of_a_block(tmp_path, ends):
    def both() -> None:
        of_file, of_folder = (tmp_path / name for name in "xy")
        with scratch.file_beside(of_file) as file, scratch.folder_beside(of_folder) as y:
            file.write(b"1")
            (y / "z").touch()
            assert len(entries(tmp_path)) == 3
            if not ends:
                raise KeyError
            os.replace(file.name, tmp_path / "x")

    if ends:
        both()
    else:
        pytest.raises(KeyError, both)
    assert entries(tmp_path) == ["x"] * ends
    scratch.sweep(tmp_path)
    assert entries(tmp_path) == ["x"] * ends


def test_all_temporary_names_are_those_that_are_swept(tmp_path, monkeypatch):
    """Of whatever writes: made and never removed, as by a kill."""
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", lambda *_: None)
    monkeypatch.setattr(os, "link", lambda *_: None)
    store, file = LocalStore(tmp_path / "set"), tmp_path / "file"
    store.put("shard", b"1")
    file.touch()
    store.upload(file, "deep/shard")
    write_file(tmp_path / "set" / "config.yaml", b"1")
    check_writable(tmp_path / "set", "pairs.output")
    with scratch.folder_beside(tmp_path / "set" / "student"):
        pass
    assert len(entries(tmp_path / "set")) == 6
    monkeypatch.undo()
    Storage(str(tmp_path / "set"), S3Config(), "pairs.output").sweep()
    assert entries(tmp_path / "set") == ["deep"]


@pytest.mark.parametrize("moment", ["open", "flock"])
@pytest.mark.parametrize("kind", ["file_beside", "folder_beside"])
def test_a_name_swept_before_it_is_held_is_made_again(tmp_path, monkeypatch, kind, moment):
    """By another process, between its making and its opening, or before it is locked."""
    of = {"open": os, "flock": scratch.fcntl}[moment]
    real, swept = getattr(of, moment), []

    def late(*args: object, **more: object) -> object:
        if not swept:
            swept.extend(tmp_path.iterdir())
        if swept and swept[0].exists():
            swept[0].rmdir() if swept[0].is_dir() else swept[0].unlink()
        return real(*args, **more)

    monkeypatch.setattr(of, moment, late)
    with getattr(scratch, kind)(tmp_path / "x"):
        assert len(swept) == 1
        assert len(entries(tmp_path)) == 1
        assert entries(tmp_path) != [swept[0].name]


def test_a_file_system_without_locks_keeps_everything(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    with scratch.file_beside(tmp_path / "x") as file:
        scratch.sweep(tmp_path)
        assert Path(file.name).exists()


def test_a_temporary_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    with pytest.raises(UserError, match=f"{tmp_path / 'none'}.*TMPDIR"), scratch.temporary_folder():
        pass
