"""Pairs in memory and in a Parquet file: the only place that knows the columns.

A shard has the columns `sample_id` (int64), `label` (int32; absent in an unconditional set),
`prompt` (string; what the label stands for, where it does),
`noise` and `image` (float16, little-endian, C x H x W, as fixed-size binary). They are stored
plainly, in row groups of `GROUP`, so reading one is a copy of bytes; what made the rows stands
in the file's metadata.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipeline.errors import DamagedError

VERSION = 3
GROUP = 256

_ID, _LABEL, _PROMPT, _NOISE, _IMAGE = "sample_id", "label", "prompt", "noise", "image"


@dataclass(frozen=True)
class PairBatch:
    """Noise and what the teacher makes of it.

    Attributes:
        ids: Sample ids, (B,) int64.
        labels: Class labels, (B,) int64, or None for an unconditional teacher.
        noise: Unit-variance noise, (B, C, H, W), float32 (float16 straight from a shard).
        images: The teacher's images from that noise, same shape and dtype, in about [-1, 1].
    """

    ids: Tensor
    labels: Tensor | None
    noise: Tensor
    images: Tensor

    def rows(self, rows: Tensor | slice) -> "PairBatch":
        """The pairs at these positions; a slice gives views."""
        labels = None if self.labels is None else self.labels[rows]
        return PairBatch(self.ids[rows], labels, self.noise[rows], self.images[rows])

    def to(self, device: torch.device) -> "PairBatch":
        """The same pairs on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return PairBatch(self.ids.to(device), labels, self.noise.to(device), self.images.to(device))

    def float(self) -> "PairBatch":
        """The same pairs with noise and images in float32."""
        return PairBatch(self.ids, self.labels, self.noise.float(), self.images.float())


def concat(batches: Sequence[PairBatch]) -> PairBatch:
    """One batch of all pairs, in the given order; a copy unless there is only one."""
    if len(batches) == 1:
        return batches[0]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return PairBatch(
        torch.cat([batch.ids for batch in batches]),
        torch.cat(labels) if labels else None,
        torch.cat([batch.noise for batch in batches]),
        torch.cat([batch.images for batch in batches]),
    )


def storable(noise: Tensor) -> Tensor:
    """Round to what a shard can hold (float16), in the tensor's own dtype."""
    return noise.half().to(noise.dtype)


def encode(
    batch: PairBatch, metadata: dict[str, str], prompts: Sequence[str] | None = None
) -> bytes:
    """The Parquet file of these pairs; the same pairs and metadata give the same bytes.

    Args:
        batch: Pairs on any device.
        metadata: What made them; `shape`, `dtype` and `sha256` are added here.
        prompts: Of each pair, or None.
    """
    arrays = {_ID: pa.array(batch.ids.cpu().numpy(), pa.int64())}
    if batch.labels is not None:
        arrays[_LABEL] = pa.array(batch.labels.cpu().numpy().astype(np.int32), pa.int32())
    if prompts is not None:
        arrays[_PROMPT] = pa.array(prompts, pa.string())
    arrays |= {_NOISE: _to_binary(batch.noise), _IMAGE: _to_binary(batch.images)}
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    table = pa.table(arrays, pa.schema(fields))
    own = {"shape": json.dumps(list(batch.noise.shape[1:])), "dtype": "float16"}
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(
        file,
        table.schema,
        compression="NONE",
        use_dictionary=False,
        write_statistics=[_ID],
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=GROUP)
        writer.add_key_value_metadata({**metadata, **own, "sha256": digest(table)})
    return bytes(file.getvalue())


def digest(table: pa.Table) -> str:
    """SHA-256 of the rows: the raw little-endian values, column after column, in hex.

    Prompts are UTF-8, with a zero byte between two of them.
    """
    content = hashlib.sha256()
    for column in table.columns:
        if pa.types.is_string(column.type):
            content.update("\0".join(column.to_pylist()).encode())
        else:
            content.update(_raw(column).to_numpy().data)
    return content.hexdigest()


def decode(
    file: pa.NativeFile, group: int, shape: tuple[int, int, int], plan: str, name: str
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
    with _readable(name):
        shard = pq.ParquetFile(file)
        if (found := _metadata(shard).get("plan")) != plan:
            raise ValueError(f"plan {found}, not {plan}")
        return _pairs(shard.read_row_group(group, use_threads=False), shape)


@dataclass(frozen=True)
class Content:
    """A whole shard.

    Attributes:
        pairs: All its pairs, as `decode` gives them.
        metadata: What its footer says.
        sha256: `digest` of the rows as they are now.
        prompts: Of each pair, or None.
    """

    pairs: PairBatch
    metadata: dict[str, str]
    sha256: str
    prompts: list[str] | None


def decode_all(file: pa.NativeFile, shape: tuple[int, int, int], name: str) -> Content:
    """Read a whole shard, to check it; arguments and errors as in `decode`, whatever its plan."""
    with _readable(name):
        shard = pq.ParquetFile(file)
        table = shard.read(use_threads=False)
        prompts = table[_PROMPT].to_pylist() if _PROMPT in table.column_names else None
        return Content(_pairs(table, shape), _metadata(shard), digest(table), prompts)


def _metadata(shard: pq.ParquetFile) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in (shard.metadata.metadata or {}).items()}


def _pairs(table: pa.Table, shape: tuple[int, int, int]) -> PairBatch:
    labels = _values(table[_LABEL], torch.int32) if _LABEL in table.column_names else None
    return PairBatch(
        _values(table[_ID], torch.int64),
        None if labels is None else labels.long(),
        _values(table[_NOISE], torch.float16).reshape(-1, *shape),
        _values(table[_IMAGE], torch.float16).reshape(-1, *shape),
    )


def _to_binary(images: Tensor) -> pa.Array:
    values = np.ascontiguousarray(images.half().flatten(1).cpu().numpy(), dtype="<f2")
    width = values.shape[1] * values.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def _raw(column: pa.ChunkedArray) -> pa.UInt8Array:
    """The bytes of a fixed-width column; no copy where it is one chunk, as in a row group."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    width = array.type.byte_width
    data = pa.Array.from_buffers(pa.uint8(), array.buffers()[1].size, [None, array.buffers()[1]])
    return data.slice(array.offset * width, len(array) * width)


def _values(column: pa.ChunkedArray, dtype: torch.dtype) -> Tensor:
    return from_dlpack(_raw(column)).view(dtype)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedError(
            f"{name} is no readable pair shard ({reason}); delete it and run jobs/pairs.py again"
        ) from error
