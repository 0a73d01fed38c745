"""Laws of a manifest whose shards were made again, or damaged."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import shards
from pipeline.data.local import LocalStore
from pipeline.data.reader import PairReader
from pipeline.utils.errors import UserError


def first(store: LocalStore) -> str:
    return next(iter(store.list("pairs-")))


def remade(data: bytes, writer: bytes = b"another", **footer: str) -> bytes:
    """The shard as another version of pyarrow, or another plan, would have made it."""
    table = pq.read_table(io.BytesIO(data))
    metadata = pq.read_metadata(io.BytesIO(data)).metadata | {b"writer": writer}
    metadata |= {key.encode(): value.encode() for key, value in footer.items()}
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(file, table.schema.remove_metadata(), store_schema=False) as writer:
        writer.write_table(table, row_group_size=256)
        writer.add_key_value_metadata(metadata)
    return bytes(file.getvalue())


def test_a_shard_made_again_in_another_size_is_taken_into_the_manifest(pairs, tiny):
    plan, path = tiny.plan(), Path(pairs.uri(first(pairs)))
    before = shards.close(pairs, plan, 1800)
    assert before == shards.read_manifest(pairs)
    path.write_bytes(remade(path.read_bytes()))
    after = shards.close(pairs, plan, 1800)
    assert after == shards.read_manifest(pairs) == shards.finished(pairs, plan, 1800)
    assert after.shards[0].bytes == path.stat().st_size != before.shards[0].bytes
    assert after.shards[1:] == before.shards[1:]
    assert len(PairReader(pairs, 0, 1800).batch(0).ids) == 1800


def test_closing_again_after_a_crash_between_old_and_new_manifest(pairs, tiny):
    pairs.delete("manifest-1800.json")
    assert shards.close(pairs, tiny.plan(), 1800) == shards.read_manifest(pairs)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"1",
        lambda data: b"",
        lambda data: remade(data, plan="0" * 16),
        lambda data: remade(data, sha256="0" * 64),
    ],
)
def test_a_damaged_shard_is_named_by_its_size_and_the_manifest_stays(pairs, tiny, damage):
    path, plan = Path(pairs.uri(first(pairs))), tiny.plan()
    sound, before = path.read_bytes(), pairs.get("manifest-1800.json")
    path.write_bytes(damage(sound))
    told = f"{path.name} .*{path.stat().st_size} bytes, {len(sound)} expected.*delete it and run"
    with pytest.raises(UserError, match=told) as error:
        shards.close(pairs, plan, 1800)
    assert "manifest" not in str(error.value)
    assert pairs.get("manifest-1800.json") == before
    path.unlink()
    tiny.fill(pairs.folder, plan, 1800)
    assert (path.read_bytes(), pairs.get("manifest-1800.json")) == (sound, before)


def test_a_shard_of_other_ids_is_no_shard_made_again(pairs, tiny):
    one, other = (Path(pairs.uri(name)) for name in list(pairs.list("pairs-"))[:2])
    one.write_bytes(remade(other.read_bytes()))
    with pytest.raises(UserError, match=one.name):
        shards.close(pairs, tiny.plan(), 1800)
