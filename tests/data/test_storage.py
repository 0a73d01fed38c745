"""Laws of storage, and of the local store: a whole object or nothing, once."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import Config, S3Config
from pipeline.data.fetch import fetch_inputs
from pipeline.data.local import LocalStore
from pipeline.data.storage import STORES, Storage, ensure_json, probe
from pipeline.models.students import load_student
from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.utils.errors import UserError
from pipeline.utils.uris import is_remote
from tests.fixtures.in_process import make_pairs


def test_put_makes_the_object_and_never_overwrites(tmp_path):
    store = Storage(str(tmp_path / "a" / "b"), S3Config(), "pairs.output")
    assert store.put("x.parquet", b"one") is True
    assert store.put("x.parquet", b"two") is False
    assert store.get("x.parquet") == b"one"
    assert store.open("x.parquet").read() == b"one"
    assert os.listdir(store.folder) == ["x.parquet"]


def test_one_of_many_writers_wins_and_its_bytes_stay(tmp_path):
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: store.put("x", bytes([n]) * 10_000), range(16)))
    assert won.count(True) == 1
    assert store.get("x") == bytes([won.index(True)]) * 10_000
    assert os.listdir(tmp_path) == ["x"]


def test_list_is_sorted_and_sees_only_finished_objects(tmp_path):
    store = LocalStore(tmp_path)
    assert LocalStore(tmp_path / "none").list() == {}
    for name in ("b-2", "a-1", "b-1"):
        store.put(name, b"123")
    (tmp_path / ".b-3.123.tmp").write_bytes(b"left by a dead process")
    assert list(store.list().items()) == [("a-1", 3), ("b-1", 3), ("b-2", 3)]
    assert list(store.list("b-")) == ["b-1", "b-2"]


def test_files_of_a_tree_go_in_whole_and_come_out_again(tmp_path):
    store, file = LocalStore(tmp_path / "store"), tmp_path / "file"
    for text in ("one", "two"):
        file.write_text(text)
        store.upload(file, "a/b.txt")
    store.put("c", b"3")
    (tmp_path / "store" / "a" / ".b.tmp").write_bytes(b"left by a dead process")
    assert list(store.tree()) == ["a/b.txt", "c"]
    store.download("a/b.txt", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_text() == "two"
    (tmp_path / "store" / "a" / ".b.tmp").unlink()
    store.delete("a/b.txt")
    assert os.listdir(store.folder) == ["c"], "an empty folder goes with its last file"
    with pytest.raises(UserError, match="cannot read .*b.txt: No such file"):
        store.download("a/b.txt", tmp_path / "copy")
    with pytest.raises(UserError, match="cannot write .*a: "):
        LocalStore(file).upload(file, "a")


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.data.local import LocalStore
os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LocalStore(Path(sys.argv[1])).put("x.parquet", b"1" * 1000)
"""


def test_a_writer_killed_before_the_link_leaves_no_object(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert len(left) == 1 and not left[0].endswith(".parquet")
    store = LocalStore(tmp_path)
    assert store.list() == {}
    assert store.put("x.parquet", b"2") and store.get("x.parquet") == b"2"


@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_write_says_so_and_leaves_nothing(tmp_path, monkeypatch, call, code):
    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/x.*{os.strerror(code)}"):
        LocalStore(tmp_path).put("x", b"1")
    assert os.listdir(tmp_path) == []
    assert LocalStore(tmp_path).put("x", b"1")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch, code):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    message = (
        f"cannot write {tmp_path}/.probe.*no hard links.*folder elsewhere, or s3://bucket/prefix"
    )
    with pytest.raises(UserError, match=message):
        probe(LocalStore(tmp_path))
    assert os.listdir(tmp_path) == []


FULL = """
import resource, sys
from pathlib import Path
from pipeline.data.local import LocalStore
from pipeline.utils.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    LocalStore(Path(sys.argv[1])).put("x.parquet", b"1" * 10_000)
except UserError as error:
    print(error)
"""


def test_a_write_that_stops_in_the_middle_leaves_nothing(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=root, capture_output=True, text=True
    )
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert os.listdir(tmp_path) == []


def test_unusable_places_are_user_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        LocalStore(tmp_path / "file").put("x", b"1")
    with pytest.raises(UserError, match="cannot list"):
        LocalStore(tmp_path / "file").list()
    for read in (LocalStore(tmp_path).get, LocalStore(tmp_path).open):
        with pytest.raises(
            UserError, match=f"cannot read {tmp_path}/gone.*run the job that makes it"
        ):
            read("gone")
    with pytest.raises(UserError, match="pairs.output 'ftp://bucket/x'.*s3://bucket/prefix"):
        Storage("ftp://bucket/x", S3Config(), "pairs.output")


def test_a_probe_leaves_nothing_and_finds_a_store_that_overwrites(tmp_path, monkeypatch):
    probe(LocalStore(tmp_path))
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(LocalStore, "put", lambda *_: True)
    with pytest.raises(UserError, match="use another store"):
        probe(LocalStore(tmp_path))


class MemoryStore:
    """Objects in this process."""

    def __init__(self, place: str, objects: dict[str, bytes]) -> None:
        self.place, self.objects = place, objects

    def put(self, name: str, data: bytes) -> bool:
        return self.objects.setdefault(self.uri(name), data) is data

    def get(self, name: str) -> bytes:
        return self.objects[self.uri(name)]

    def open(self, name: str) -> pa.NativeFile:
        return pa.BufferReader(self.get(name))

    def list(self, prefix: str = "") -> dict[str, int]:
        names = [name for name in self.tree() if name.startswith(prefix) and "/" not in name]
        return {name: len(self.get(name)) for name in names}

    def upload(self, file: Path, name: str) -> None:
        self.objects[self.uri(name)] = file.read_bytes()

    def download(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(name))

    def tree(self) -> dict[str, str]:
        here = [name for name in self.objects if name.startswith(self.place)]
        return {
            name.removeprefix(self.place): sha256(self.objects[name]).hexdigest()
            for name in sorted(here)
        }

    def delete(self, name: str) -> None:
        self.objects.pop(self.uri(name), None)

    def uri(self, name: str) -> str:
        return self.place + name


@pytest.fixture
def memory(monkeypatch) -> dict[str, bytes]:
    """The objects of memory://, a store of another kind."""
    objects: dict[str, bytes] = {}

    def open_memory(bucket: str, prefix: str, credentials: S3Config) -> MemoryStore:
        return MemoryStore(f"memory://{bucket}/{prefix}", objects)

    monkeypatch.setitem(STORES, "memory", open_memory)
    return objects


@pytest.mark.parametrize("place", ["memory://bucket/some/set", "folder"])
def test_storage_is_one_object_whatever_holds_it(memory, tmp_path, place):
    uri = place if is_remote(place) else str(tmp_path / place)
    storage, file = Storage(f"{uri}/", S3Config(), "pairs.output"), tmp_path / "file"
    probe(storage)
    assert storage.put("x", b"one") and not storage.put("x", b"two")
    assert storage.get("x") == storage.open("x").read() == b"one"
    file.write_bytes(b"four")
    inner = storage / "inner"
    inner.upload(file, "y")
    assert (storage.list(), inner.list()) == ({"x": 3}, {"y": 4})
    assert list(storage.tree()) == ["inner/y", "x"]
    storage.download("inner/y", tmp_path / "copies" / "y")
    assert (tmp_path / "copies" / "y").read_bytes() == b"four"
    assert inner.uri("y") == storage.uri("inner/y") == f"{uri}/inner/y"
    assert (storage.folder is None) == is_remote(uri)
    ensure_json(storage, "set.json", {"seed": 1}, "pairs.output")
    ensure_json(storage, "set.json", {"seed": 1}, "pairs.output")
    with pytest.raises(UserError, match=r"pairs.output: .*seed 1, not 2"):
        ensure_json(storage, "set.json", {"seed": 2}, "pairs.output")
    storage.delete("x")
    assert list(storage.list()) == ["set.json"]


def test_a_run_lives_in_a_store_of_another_kind(memory, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree = tiny_run().model_dump(mode="json")
    tree["pairs"] |= {"output": "memory://bucket/pairs"}
    tree["distill"] |= {"output": "memory://bucket/run", "steps": 6}
    tree["evaluate"] |= {"student": "memory://bucket/run/student"}
    config = Config.model_validate(tree)
    make_pairs(config)
    run = Run(config)
    run.claim()
    loop.train(config)
    run.finish()
    assert run.is_finished() and run.checkpoints.step() == 6
    assert load_student(fetch_inputs(config, "evaluate").evaluate.student).shape == (1, 4, 4)
    assert {name.split("/")[3] for name in memory} == {"pairs", "run"}
