"""Pairs in memory and in a Parquet file: the only place that knows the columns (beside `real`).

A shard of pairs has the columns `sample_id` (int64), `label` (int32; absent in an unconditional
set), `prompt` (string; what the label stands for, where it does), `noise` and `image` (float16,
little-endian, C x H x W, as fixed-size binary). They are stored plainly, in row groups of `GROUP`,
so reading one is a copy of bytes. What made the rows stands in the file's metadata, with the
SHA-256 of them all and a checksum of each row group, by which every read is checked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipeline.data.checksums import checksum, digest, raw
from pipeline.diffusion.pairs import PairBatch
from pipeline.utils.errors import DamagedError

VERSION = 3
GROUP = 256

ID, LABEL, CAPTION, IMAGE = "sample_id", "label", "caption", "image"
_PROMPT, _NOISE = "prompt", "noise"
_COLUMNS = (ID, LABEL, CAPTION, _PROMPT, _NOISE, IMAGE)
Batch = TypeVar("Batch")
_EARLIER: dict[tuple[str, str], list[str]] = {}
"""Name and SHA-256 of a shard that has no checksums of its row groups -> these, found here."""


@dataclass(frozen=True)
class Kind:
    """A kind of set, in the words of its names and messages.

    Attributes:
        prefix: Of the names of its shards.
        title: What it is a set of.
        setting: The setting that says where it is.
        job: What makes it.
    """

    prefix: str
    title: str
    setting: str
    job: str


PAIRS = Kind("pairs", "pair", "pairs.output", "jobs/pairs.py")
REAL = Kind("real", "real", "encode.output", "jobs/encode.py")
CONDITIONS = Kind("conditions", "condition", "embed.output", "jobs/embed.py")


def concat(batches: Sequence[Batch]) -> Batch:
    """One batch of all rows, in the given order; a copy unless there is only one.

    Args:
        batches: Of one kind; a field is a tensor or a tuple with an entry for each row, or None.
    """
    if len(batches) == 1:
        return batches[0]
    columns: dict[str, Any] = {}
    for name in vars(batches[0]):
        parts = [part for batch in batches if (part := getattr(batch, name)) is not None]
        tensors = bool(parts) and isinstance(parts[0], Tensor)
        columns[name] = torch.cat(parts) if tensors else tuple(chain(*parts)) if parts else None
    return type(batches[0])(**columns)


def texts(values: Sequence[Any]) -> pa.Array:
    """A column of texts, or of lists of them where a row has several."""
    if not any(isinstance(each, tuple) for each in values):
        return pa.array(values, pa.string())
    lists = [[each] if isinstance(each, str) else each for each in values]
    return pa.array(lists, pa.list_(pa.string()))


def from_texts(column: pa.ChunkedArray) -> list[Any]:
    """What `texts` was given; of other columns their values."""
    if not pa.types.is_list(column.type):
        return list(column.to_pylist())
    rows = column.to_pylist()
    return [row and (tuple(row) if len(row) > 1 else row[0]) for row in rows]


def storable(noise: Tensor) -> Tensor:
    """Round to what a shard can hold (float16), in the tensor's own dtype."""
    return noise.half().to(noise.dtype)


def encode(
    batch: PairBatch, metadata: dict[str, str], prompts: Sequence[str] | None = None
) -> bytes:
    """The Parquet file of these pairs; the same pairs and metadata give the same bytes.

    Args:
        batch: Pairs on any device.
        metadata: What made them; `shape`, `dtype`, `sha256` and `checksums` are added here.
        prompts: Of each pair, or None.
    """
    arrays = numbers(batch.ids, batch.labels)
    if prompts is not None:
        arrays[_PROMPT] = pa.array(prompts, pa.string())
    arrays |= {_NOISE: to_binary(batch.noise), IMAGE: to_binary(batch.images)}
    return to_file(arrays, metadata, batch.images)


def numbers(ids: Tensor, labels: Tensor | None) -> dict[str, pa.Array]:
    """The first columns of every shard."""
    arrays = {ID: pa.array(ids.cpu().numpy(), pa.int64())}
    if labels is not None:
        arrays[LABEL] = pa.array(labels.cpu().numpy().astype(np.int32), pa.int32())
    return arrays


def to_file(arrays: dict[str, pa.Array], metadata: Mapping[str, str], images: Tensor) -> bytes:
    """A Parquet file of columns, one of which are these images; as `encode`."""
    own, count = {"shape": json.dumps(list(images.shape[1:])), "dtype": "float16"}, len(images)
    groups = [min(GROUP, count - first) for first in range(0, count, GROUP)]
    return to_groups(arrays, {**metadata, **own}, groups)


def to_groups(
    arrays: dict[str, pa.Array], metadata: Mapping[str, str], groups: Sequence[int]
) -> bytes:
    """A Parquet file of columns, in row groups of so many rows; as `encode`."""
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    table, file = pa.table(arrays, pa.schema(fields)), pa.BufferOutputStream()
    parts = [table.slice(end - n, n) for end, n in zip(accumulate(groups), groups, strict=True)]
    with pq.ParquetWriter(
        file,
        table.schema,
        compression="NONE",
        use_dictionary=False,
        write_statistics=[ID],
        store_schema=False,
    ) as writer:
        for part in parts or [table]:
            writer.write_table(part)
        sums = {"sha256": digest(table), "checksums": json.dumps(list(map(checksum, parts)))}
        writer.add_key_value_metadata({**metadata, **sums})
    return bytes(file.getvalue())


def _checksums(table: pa.Table) -> list[str]:
    return [checksum(table.slice(first, GROUP)) for first in range(0, len(table), GROUP)]


def decode(
    file: pa.NativeFile, group: int, shape: tuple[int, ...], plan: str, name: str
) -> PairBatch:
    """Read one row group of a shard; noise and images stay float16, in memory not to be written.

    Args:
        file: The open shard.
        group: Number of the row group.
        shape: One image, (C, H, W).
        plan: Fingerprint of the plan it is of, as in its footer.
        name: What to call the shard in an error.

    Raises:
        UserError: If the shard is truncated, damaged, of another layout or of another plan.
    """
    with readable(name, PAIRS):
        return _pairs(read_group(file, group, plan, name), shape)


def read_group(file: pa.NativeFile, group: int, plan: str, name: str) -> pa.Table:
    """One row group of a shard of any kind, checked; arguments and errors as `decode`."""
    shard = _open(file, plan)
    table = shard.read_row_group(group, use_threads=False)
    expected = _expected(shard, name)[group]
    if (actual := checksum(table)) != expected:
        raise ValueError(f"row group {group} has the checksum {actual}, not {expected}")
    return table


def check(file: pa.NativeFile, plan: str, ids: range, rows: int, name: str, kind: Kind) -> None:
    """Read a whole shard of any kind, to see that it has so many rows of these ids, and is sound.

    Raises:
        DamagedError: If not.
    """
    with readable(name, kind):
        known = None if kind is CONDITIONS else _COLUMNS
        found = read_all(_open(file, plan), known)[ID].to_pylist()
        if len(found) != rows or found != sorted(set(found).intersection(ids)):
            raise ValueError(f"{len(found)} rows, not {rows} of the ids that its name says")


def _open(file: pa.NativeFile, plan: str) -> pq.ParquetFile:
    shard = pq.ParquetFile(file)
    if (found := footer(shard).get("plan")) != plan:
        raise ValueError(f"plan {found}, not {plan}")
    return shard


def _expected(shard: pq.ParquetFile, name: str) -> list[str]:
    """The checksum of each row group; a shard of earlier versions is checked whole, once."""
    known = footer(shard)
    if (stored := known.get("checksums")) is not None:
        return list(json.loads(stored))
    key = name, known["sha256"]
    if key not in _EARLIER:
        _EARLIER[key] = _checksums(read_all(shard))
    return _EARLIER[key]


def read_all(shard: pq.ParquetFile, known: Sequence[str] | None = _COLUMNS) -> pa.Table:
    """All rows, of known columns; raises ValueError if they are not those that were written."""
    table, expected = shard.read(use_threads=False), footer(shard)["sha256"]
    if strange := sorted({*table.column_names}.difference(known or table.column_names)):
        raise ValueError(f"the column {strange[0]}")
    if (actual := digest(table)) != expected:
        raise ValueError(f"its rows have the SHA-256 {actual}, not {expected}")
    return table


@dataclass(frozen=True)
class Content(Generic[Batch]):
    """A whole shard.

    Attributes:
        batch: All its rows, as `decode` gives them.
        metadata: What its footer says.
        prompts: Of each pair, or None.
    """

    batch: Batch
    metadata: dict[str, str]
    prompts: list[str] | None = None


def decode_all(file: pa.NativeFile, shape: tuple[int, ...], name: str) -> Content[PairBatch]:
    """Read a whole shard, to check it; arguments and errors as in `decode`, whatever its plan."""
    with readable(name, PAIRS):
        shard = pq.ParquetFile(file)
        table = read_all(shard)
        prompts = table[_PROMPT].to_pylist() if _PROMPT in table.column_names else None
        return Content(_pairs(table, shape), footer(shard), prompts)


def footer(shard: pq.ParquetFile) -> dict[str, str]:
    """What the footer says beside the layout."""
    return {k.decode(): v.decode() for k, v in (shard.metadata.metadata or {}).items()}


def _pairs(table: pa.Table, shape: tuple[int, ...]) -> PairBatch:
    noise, images = (images_of(table, column, shape) for column in (_NOISE, IMAGE))
    return PairBatch(*numbers_of(table), noise, images)


def numbers_of(table: pa.Table) -> tuple[Tensor, Tensor | None]:
    """What `numbers` was given: sample ids, (B,) int64, and labels, (B,) int64, or None."""
    labelled = LABEL in table.column_names
    labels = _values(table[LABEL], torch.int32).long() if labelled else None
    return _values(table[ID], torch.int64), labels


def images_of(table: pa.Table, column: str, shape: tuple[int, ...]) -> Tensor:
    """A column that `to_binary` made, (B, C, H, W) float16."""
    return _values(table[column], torch.float16).reshape(-1, *shape)


def to_binary(images: Tensor) -> pa.Array:
    """Images, (B, C, H, W), as a column of fixed width."""
    values = np.ascontiguousarray(images.half().flatten(1).cpu().numpy(), dtype="<f2")
    width = values.shape[1] * values.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def _values(column: pa.ChunkedArray, dtype: torch.dtype) -> Tensor:
    return from_dlpack(raw(column)).view(dtype)


def check_size(found: int, expected: int, name: str, kind: Kind) -> None:
    """Raises DamagedError, as `readable`, if a shard has not as many bytes as it should have."""
    with readable(name, kind):
        if found != expected:
            raise ValueError(f"{found} bytes, {expected} expected")


@contextmanager
def readable(name: str, kind: Kind) -> Iterator[None]:
    """What is wrong with a shard as a DamagedError that names it and the way out."""
    try:
        yield
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedError(
            f"{name} is no readable {kind.title} shard ({reason}); delete it and run {kind.job} "
            "again"
        ) from error
