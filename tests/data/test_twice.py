"""The law of one bad answer."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline.data import real, shards
from pipeline.data.local import LocalStore
from pipeline.data.reader import PairReader
from pipeline.data.twice import twice
from pipeline.utils.errors import DamagedError, UserError


@pytest.mark.parametrize(("faults", "calls"), [(0, 1), (1, 2), (2, 2)])
def test_what_comes_damaged_is_read_once_more(faults, calls):
    asked = []

    @twice
    def read(name: str) -> str:
        asked.append(name)
        if len(asked) <= faults:
            raise DamagedError(f"{name} {len(asked)}")
        return name

    if faults < 2:
        assert read("x") == "x"
    else:
        with pytest.raises(DamagedError, match="x 2"):
            read("x")
    assert len(asked) == calls


def test_another_error_is_raised_at_once():
    asked = []

    @twice
    def read() -> None:
        asked.append(1)
        raise UserError("no rights")

    with pytest.raises(UserError, match="no rights"):
        read()
    assert len(asked) == 1


@contextmanager
def answers(patch: pytest.MonkeyPatch, number: int, change: Callable[[bytes], bytes]) -> Iterator:
    """So many of the store's next answers are other bytes than it holds."""
    left, get = [number], LocalStore.get

    def changed(self: LocalStore, name: str) -> bytes:
        left[0] -= 1
        return get(self, name) if left[0] < 0 else change(get(self, name))

    with patch.context() as inner:
        inner.setattr(LocalStore, "get", changed)
        inner.setattr(LocalStore, "open", lambda self, name: pa.BufferReader(self.get(name)))
        yield


BAD = {
    "half": lambda data: data[: len(data) // 2],
    "none": lambda data: b"",
    "other": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("pairs-", lambda store, plan: PairReader(store, 0, 1800).batch(0)),
        ("manifest-1800.json", lambda store, plan: shards.read_manifest(store)),
        ("manifest-1800.json", lambda store, plan: shards.finished(store, plan, 1800)),
        ("plan.json", lambda store, plan: shards.open_plan(store, plan)),
        ("damaged-0.json", lambda store, plan: list(real.damaged(store))),
    ],
)
def test_one_bad_answer_is_no_damage_and_two_are_named(
    pairs, tiny, monkeypatch, name, read, change
):
    pairs.put("damaged-0.json", json.dumps([{"id": 0, "image": "x", "reason": "y"}]).encode())
    if name == "pairs-":  # its manifest is read by then
        reader = PairReader(pairs, 0, 1800)
        read = lambda store, plan: reader.batch(0)  # noqa: E731
    with answers(monkeypatch, 1, change):
        read(pairs, tiny.plan())
    if name == "pairs-":
        reader = PairReader(pairs, 1, 1800)
    with answers(monkeypatch, 2, change), pytest.raises(DamagedError, match=name):
        read(pairs, tiny.plan())


def test_the_second_answer_is_what_counts(pairs, tmp_path, monkeypatch):
    reader = PairReader(pairs, 0, 1800)
    expected = PairReader(LocalStore(Path(pairs.folder)), 0, 1800).batch(0)
    with answers(monkeypatch, 1, BAD["half"]):
        assert torch.equal(reader.batch(0).noise, expected.noise)
