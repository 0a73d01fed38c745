"""Laws of the checksums of rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.checksums import _BLOCK, checksum

VALUES = np.random.default_rng(0).integers(0, 256, 100 * 1024, np.uint8)
SUM = None


def table(values: np.ndarray, width: int = 1024, name: str = "x") -> pa.Table:
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    column = pa.Array.from_buffers(pa.binary(width), len(values) // width, [None, buffer])
    return pa.table({name: column})


SUM = checksum(table(VALUES))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(VALUES) - 1), bytes=st.binary(min_size=1, max_size=8 * _BLOCK))
def test_damage_is_found(at, bytes):
    damaged = VALUES.copy()
    part = damaged[at : at + len(bytes)]
    part[:] = np.frombuffer(bytes[: len(part)], np.uint8)
    assert (checksum(table(damaged)) == SUM) == np.array_equal(damaged, VALUES)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, len(VALUES) - 1), st.integers(0, 7)), min_size=1))
def test_bits_that_only_rise_or_only_fall_are_found(bits):
    for stuck in (0, 1):
        damaged = VALUES.copy()
        for at, bit in bits:
            damaged[at] = damaged[at] & (255 - (1 << bit)) | stuck << bit
        assert (checksum(table(damaged)) == SUM) == np.array_equal(damaged, VALUES)


@pytest.mark.parametrize("size", [4096, 5120, 16384])
def test_two_pages_in_each_others_place_are_found(size):
    parts = VALUES.reshape(-1, 1024).copy().reshape(-1)[: len(VALUES) // size * size]
    swapped = parts.reshape(-1, size)
    swapped[[0, 3]] = swapped[[3, 0]]
    whole = np.concatenate([swapped.reshape(-1), VALUES[swapped.size :]])
    assert checksum(table(whole)) != SUM


def test_it_is_of_the_names_and_of_texts_too():
    assert checksum(table(VALUES, name="y")) != SUM
    words = {"a": ["x", "yz"], "b": [["1"], ["2", "3"]]}
    found = {
        checksum(pa.table({**words, **change}))
        for change in ({}, {"a": ["xy", "z"]}, {"b": [["1", "2"], ["3"]]})
    }
    assert len(found) == 3


def test_bytes_of_any_length_are_told_apart_wherever_they_lie():
    values = [b"ab", b"c", b"", b"def"]
    found = [
        checksum(pa.table({"a": pa.array(each, pa.binary())})) for each in (values, values[1:])
    ]
    assert checksum(pa.table({"a": pa.array([b"x", *values], pa.binary())}).slice(1)) == found[0]
    others = [b"a", b"bc", b"", b"def"], [b"ab", b"c", b"def", b""]
    found += [checksum(pa.table({"a": pa.array(each, pa.binary())})) for each in others]
    assert len({*found}) == 4


def test_it_is_of_the_values_and_not_of_where_they_lie(tmp_path):
    long = table(np.concatenate([VALUES[:2048], VALUES]))
    assert checksum(long.slice(2)) == SUM
    pq.write_table(table(VALUES), tmp_path / "x", row_group_size=7)
    assert checksum(pq.read_table(tmp_path / "x")) == SUM
    assert checksum(long.slice(0, 0)) != SUM
