"""Two drivers of one run or set: the second is told, or takes over from one that is gone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.config import S3Config
from pipeline.data import lease
from pipeline.data.lease import Lease
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError

HOLD = """
import sys, time
from pipeline.config import S3Config
from pipeline.data.lease import Lease
from pipeline.data.storage import Storage
with Lease(Storage(sys.argv[1], S3Config(), "distill.output")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path, monkeypatch) -> Storage:
    """Of a run; beats are fast."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    uri = str(tmp_path / "run")
    if request.param == "s3":
        request.getfixturevalue("bucket")
        uri = "s3://bucket/run"
    return Storage(uri, S3Config(), "distill.output")


def names(storage: Storage) -> list[str]:
    return list(storage.tree())


def test_while_one_works_another_is_told_who_it_is(storage):
    with Lease(storage) as first:
        with pytest.raises(UserError, match=rf"distill\.output: .*{os.getpid()}"), Lease(storage):
            pytest.fail("two work at once")
        time.sleep(0.3)
        first.check()
        assert names(storage) == ["driver.json"]
    assert names(storage) == []
    with Lease(storage):
        pass


def test_one_that_was_killed_here_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 100.0)
    storage = Storage(str(tmp_path), S3Config(), "distill.output")
    run = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(run, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert names(storage) == ["driver.json"]
    began = time.monotonic()
    with Lease(storage):
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", ["elsewhere", "", "{}", "[" * 9999, '{"pid": "me"}'])
def test_one_that_says_nothing_more_is_taken_over_after_a_while(storage, content):
    if content == "elsewhere":
        driver = lease.Driver("host-7", "another boot", os.getpid(), "noon", "0123", 5)
        content = json.dumps(vars(driver))
    storage.put("driver.json", content.encode())
    began = time.monotonic()
    with Lease(storage):
        assert time.monotonic() - began >= lease.PATIENCE * lease.BEAT_SECONDS


def test_one_that_was_stopped_for_long_learns_that_it_was_taken_over(storage):
    with Lease(storage) as first:
        storage.delete("driver.json")  # as by a driver that took it for gone
        with Lease(storage) as second:
            deadline = time.monotonic() + 10
            with pytest.raises(UserError, match=r"distill\.output"):
                while time.monotonic() < deadline:
                    first.check()
            second.check()
    assert names(storage) == []


def test_one_that_loses_it_leaves_that_of_the_other(storage):
    with Lease(storage):
        storage.delete("driver.json")
        storage.put("driver.json", b"of another")
    assert storage.get("driver.json") == b"of another"


def test_of_many_at_once_one_gets_it(storage):
    held, refused = [], []

    def work() -> None:
        try:
            with Lease(storage):
                held.append(1)
                time.sleep(1)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(held), len(refused)) == (1, 3)


def test_beats_go_on_after_a_store_that_was_away(storage, monkeypatch):
    with Lease(storage) as first:
        upload, fails = Storage.upload, iter(range(2))

        def sometimes(self: Storage, file: Path, name: str) -> None:
            if next(fails, None) is not None:
                raise UserError("the store is away")
            upload(self, file, name)

        monkeypatch.setattr(Storage, "upload", sometimes)
        time.sleep(0.6)
        first.check()
        assert json.loads(storage.get("driver.json"))["beat"] > 2


def test_it_is_given_back_also_to_a_store_that_once_answers_wrongly(storage, monkeypatch):
    delete, refusals, stale = Storage.delete, iter(range(1)), iter([{}])
    names_of = Storage.list

    def sometimes(self: Storage, name: str) -> None:
        if next(refusals, None) is not None:
            raise UserError("the answer was cut")
        delete(self, name)

    with Lease(storage):
        monkeypatch.setattr(Storage, "delete", sometimes)
        monkeypatch.setattr(
            Storage, "list", lambda self, prefix="": next(stale, None) or names_of(self, prefix)
        )
    assert names(storage) == []
