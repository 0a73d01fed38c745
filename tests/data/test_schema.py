"""Laws of the shard's layout."""

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pipeline.data import real, schema
from pipeline.data.checksums import checksum
from pipeline.data.real import RealBatch
from pipeline.diffusion.pairs import PairBatch
from pipeline.utils.errors import DamagedError, UserError

PLAN = {"plan": "p"}


def _batch(rows: int = 600, shape: tuple[int, int, int] = (3, 4, 4), labels: bool = True):
    rng = torch.Generator().manual_seed(0)
    noise = schema.storable(torch.randn(rows, *shape, generator=rng))
    ids = torch.arange(rows) + 1200
    return PairBatch(ids, ids % 10 if labels else None, noise, noise / 2)


def _decode(data: bytes, shape: tuple[int, int, int]) -> PairBatch:
    groups = pq.read_metadata(io.BytesIO(data)).num_row_groups
    file = pa.BufferReader(data)
    return schema.concat([schema.decode(file, group, shape, "p", "it") for group in range(groups)])


def test_a_shard_gives_back_the_very_pairs():
    batch = _batch()
    back = _decode(schema.encode(batch, PLAN), (3, 4, 4)).float()
    assert torch.equal(back.ids, batch.ids) and torch.equal(back.labels, batch.labels)
    assert torch.equal(back.noise, batch.noise) and torch.equal(back.images, batch.images)


def test_an_unconditional_shard_has_no_label_column():
    data = schema.encode(_batch(labels=False), PLAN)
    assert pq.read_schema(io.BytesIO(data)).names == ["sample_id", "noise", "image"]
    assert _decode(data, (3, 4, 4)).labels is None


def test_the_layout_is_plain_fixed_size_binary_in_row_groups_of_256():
    footer = pq.read_metadata(io.BytesIO(schema.encode(_batch(), PLAN)))
    columns = footer.schema.to_arrow_schema()
    assert [field.type for field in columns] == [
        pa.int64(),
        pa.int32(),
        pa.binary(96),
        pa.binary(96),
    ]
    assert [footer.row_group(group).num_rows for group in range(3)] == [256, 256, 88]
    for number in range(4):
        column = footer.row_group(0).column(number)
        assert column.compression == "UNCOMPRESSED" and not column.has_dictionary_page
        assert "PLAIN" in column.encodings
        assert column.is_stats_set == (number == 0)


def test_anybody_reads_the_values_with_the_shape_from_the_metadata():
    batch = _batch()
    table = pq.read_table(io.BytesIO(schema.encode(batch, {"teacher": "abc"})))
    metadata = pq.read_metadata(io.BytesIO(schema.encode(batch, {"teacher": "abc"}))).metadata
    shape = json.loads(metadata[b"shape"])
    noise = np.frombuffer(table["noise"][7].as_py(), "<f2").reshape(shape)
    assert np.array_equal(noise, batch.noise[7].numpy())
    assert metadata[b"teacher"] == b"abc" and metadata[b"dtype"] == b"float16"
    assert metadata[b"sha256"].decode() == schema.digest(table)


def test_the_same_pairs_are_the_same_bytes_whatever_their_memory_layout():
    batch = _batch()
    strided = PairBatch(
        batch.ids, batch.labels, batch.noise.to(memory_format=torch.channels_last), batch.images
    )
    assert schema.encode(batch, {"a": "1"}) == schema.encode(strided, {"a": "1"})


def test_a_row_costs_at_most_1_percent_over_its_payload():
    data = schema.encode(_batch(512, (3, 32, 32)), PLAN)
    assert len(data) <= 1.01 * 512 * 2 * 2 * 3 * 32 * 32


@pytest.mark.parametrize("damage", [lambda d: d[:-100], lambda d: d[: len(d) // 2], lambda d: b""])
def test_a_truncated_shard_is_named_with_the_way_out(damage):
    file = pa.BufferReader(damage(schema.encode(_batch(), PLAN)))
    with pytest.raises(UserError, match="the-shard .*delete it and run jobs/pairs.py again"):
        schema.decode(file, 0, (3, 4, 4), "p", "the-shard")


def _real(rows: int) -> RealBatch:
    words = tuple((f"a{id}", f"b{id}") if id % 2 else f"c{id}" for id in range(rows))
    noise = torch.randn(rows, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return RealBatch(torch.arange(rows), None, words, schema.storable(noise).half())


def _without_checksums(data: bytes) -> bytes:
    """As earlier versions wrote it; only the name in the footer is gone."""
    assert data.count(b"checksums") == 1
    return data.replace(b"checksums", b"elsewhere")


SHARDS = {
    "pairs": (schema.encode(_batch(30, (1, 2, 2)), PLAN, ["word"] * 30), schema.decode),
    "real": (real.encode(_real(30), PLAN), real.decode),
}
SHARDS |= {
    f"earlier {name}": (_without_checksums(data), decode) for name, (data, decode) in SHARDS.items()
}


@pytest.mark.parametrize(("data", "decode"), SHARDS.values(), ids=SHARDS)
def test_a_changed_byte_anywhere_is_found_or_changes_nothing(data, decode):

    def read(content: bytes, name: str) -> dict[str, object]:
        batch = decode(pa.BufferReader(content), 0, (1, 2, 2), "p", name)
        fields = vars(batch).items()
        return {key: v.tolist() if isinstance(v, Tensor) else v for key, v in fields}

    sound, outcomes = read(data, "sound"), Counter[str]()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        try:
            assert read(bytes(changed), f"shard {at}") == sound, f"byte {at} of {len(data)}"
            outcomes["same"] += 1
        except DamagedError as error:
            assert f"shard {at} " in str(error) and "\n" not in str(error)
            outcomes["found"] += 1
    assert outcomes["found"] > 3 * outcomes["same"]


def test_a_shard_of_an_earlier_version_is_read_whole_once(monkeypatch):
    data, decode = SHARDS["earlier pairs"]
    whole, plain = [], pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda *args, **more: (whole.append(1), plain(*args, **more))[1]
    )
    for name in ("one", "two"):
        for _ in range(3):
            decode(pa.BufferReader(data), 0, (1, 2, 2), "p", name)
    assert len(whole) == 2


def test_the_checksums_of_the_row_groups_stand_in_the_footer():
    metadata = pq.read_metadata(io.BytesIO(schema.encode(_batch(), PLAN))).metadata
    rows = pq.read_table(io.BytesIO(schema.encode(_batch(), PLAN)))
    found = [checksum(rows.slice(first, 256)) for first in (0, 256, 512)]
    assert json.loads(metadata[b"checksums"]) == found


def test_a_shard_of_another_plan_shape_or_layout_is_refused():
    data = schema.encode(_batch(), PLAN)
    with pytest.raises(UserError, match="the-shard .*plan p, not q"):
        schema.decode(pa.BufferReader(data), 0, (3, 4, 4), "q", "the-shard")
    with pytest.raises(UserError, match="the-shard"):
        schema.decode(pa.BufferReader(data), 0, (3, 5, 5), "p", "the-shard")
    other = io.BytesIO()
    pq.write_table(pa.table({"x": [1, 2]}), other)
    with pytest.raises(UserError, match="the-shard"):
        schema.decode(pa.BufferReader(other.getvalue()), 0, (3, 4, 4), "p", "the-shard")


def test_storable_rounds_to_float16_once():
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    once = schema.storable(noise)
    assert once.dtype == torch.float32
    assert torch.equal(schema.storable(once), once) and torch.equal(once, noise.half().float())
