"""Laws of what S3 answers: other lengths and other bytes than asked for."""

import io

import botocore.client
import pytest
import torch

from pipeline.data import shards
from pipeline.data.ranges import ATTEMPTS
from pipeline.data.reader import PairReader
from pipeline.utils.errors import DamagedError, UserError


def bodies(monkeypatch, *changes) -> list[dict]:
    """Let the next answers of GetObject have other bodies, of the length that they announce."""
    real, queue, calls = botocore.client.BaseClient._make_api_call, list(changes), []

    def call(self, name, arguments):
        reply = real(self, name, arguments)
        if name == "GetObject":
            calls.append(arguments)
            if queue:
                body = queue.pop(0)(reply["Body"].read())
                reply |= {"Body": io.BytesIO(body), "ContentLength": len(body)}
        return reply

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    return calls


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"1"])
def test_a_range_of_another_length_is_asked_for_again(s3_store, monkeypatch, change):
    s3_store.put("x", bytes(range(100)))
    with monkeypatch.context() as patch:
        calls = bodies(patch, change, change)
        with s3_store.open("x") as file:
            file.seek(10)
            assert file.read(5) == bytes(range(10, 15))
        assert len(calls) == 3
    with monkeypatch.context() as patch, s3_store.open("x") as file:
        bodies(patch, *[change] * ATTEMPTS)
        with pytest.raises(UserError, match="set/x: .* bytes, 5 expected; run the same"):
            file.read(5)


def test_a_body_of_another_length_than_it_announces_is_asked_for_again(s3_store, monkeypatch):
    s3_store.put("x", b"12")
    real, calls = botocore.client.BaseClient._make_api_call, []

    def call(self, name, arguments):
        calls.append(name)
        return real(self, name, arguments) | ({"ContentLength": 3} if len(calls) < 3 else {})

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    assert s3_store.get("x") == b"12"
    assert calls == ["GetObject"] * 3


def test_wrong_bytes_are_read_once_more_and_then_named(s3_store, tiny, monkeypatch):
    plan = tiny.plan()
    shards.write(s3_store, plan, 0, tiny.batch(plan, 0))
    shards.close(s3_store, plan, plan.shard_size)
    flipped = lambda body: bytes([body[0] ^ 1]) + body[1:]  # noqa: E731
    expected = PairReader(s3_store, 0, 4).batch(0)
    reader = PairReader(s3_store, 0, 4)
    with monkeypatch.context() as patch:
        bodies(patch, lambda body: body, flipped)
        assert torch.equal(reader.batch(0).noise, expected.noise)
    reader = PairReader(s3_store, 0, 4)
    with monkeypatch.context() as patch:
        bodies(patch, *[flipped] * 100)
        with pytest.raises(DamagedError, match="s3://bucket/some/set/pairs-0.*delete it and run"):
            reader.batch(0)
