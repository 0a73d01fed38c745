"""A set of conditions: what the text encoders make of every prompt, and of the negative one.

It is stored as a set of pairs is (`shards`); a row's id is the number of its prompt. A shard has
the columns `sample_id` (int64), `shapes` (JSON: name -> shape of the tensor), and for each tensor
one of its bytes, little-endian. Of `tokens` those alone are stored that the `mask` counts, without
a mask those up to the last that is not zeros; and of a mask its bits. The file's metadata says
under `tensors` how each is stored, and which type it has in a condition. Row groups are small, for
rows are read in any order; each has a checksum.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from math import prod

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.data import schema, shards
from pipeline.data.checksums import checksum
from pipeline.data.manifest import Manifest
from pipeline.data.plans import ConditionPlan
from pipeline.data.schema import Content
from pipeline.data.storage import Storage, Store
from pipeline.data.twice import twice
from pipeline.diffusion.condition import Condition
from pipeline.utils.errors import DamagedError, UserError
from pipeline.utils.threads import ahead

GROUP_BYTES, GROUP_ROWS = 2**18, 64
"""Of a row group: rows are added until it has one or the other. Smaller ones would make the file
more than 1% larger than its values; of larger ones a row takes longer to read."""
_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_SHAPES, _BITS = "shapes", "bits"
_OPEN = 256
"""Shards whose footers stay in memory, 0.4 MB each at most."""
_THREADS = 16
"""That read shards in a bucket, where a request takes long."""


@dataclass(frozen=True)
class _Format:
    """How the values of a tensor are stored.

    Attributes:
        stored: Their type in a shard, as torch calls it, or "bits".
        type: Their type in a condition.
    """

    stored: str
    type: str

    @staticmethod
    def of(name: str, value: Tensor, precision: str) -> "_Format":
        """Of a tensor of a condition."""
        kind = str(value.dtype).removeprefix("torch.")
        if name.startswith("mask"):
            return _Format(_BITS, kind)
        return _Format(_PRECISIONS[precision] if value.is_floating_point() else kind, kind)

    def pack(self, values: Tensor) -> bytes:
        """The bytes of a shard.

        Raises:
            FloatingPointError: If a value is not finite.
        """
        values = values.detach().cpu()
        if self.stored == _BITS:
            assert torch.equal(values, values.bool().to(values.dtype)), "a mask is zeros and ones"
            return np.packbits(values.bool().numpy()).tobytes()
        values = values.to(getattr(torch, self.stored)).reshape(-1)
        if not values.isfinite().all():
            raise FloatingPointError(f"has values that are not finite in {self.stored}")
        return values.view(torch.uint8).numpy().tobytes()

    def unpack(self, data: pa.Buffer, count: int) -> Tensor:
        """What `pack` was given, (n,): n is `count` of bits, else what the bytes come to."""
        values, kind = np.frombuffer(data, np.uint8), getattr(torch, self.type)
        if self.stored == _BITS:
            return torch.from_numpy(np.unpackbits(values, count=count)).to(kind)
        stored: torch.dtype = getattr(torch, self.stored)
        found = torch.empty(len(values) // stored.itemsize, dtype=stored)
        found.view(torch.uint8).numpy()[:] = values
        return found.to(kind)


def write(
    store: Store, plan: ConditionPlan, ids: range, rows: Sequence[Condition], whole: bool = False
) -> str:
    """Store one shard, unless it is there already; returns its name.

    Args:
        store: Where the set is.
        plan: Of the set.
        ids: Of the shard.
        rows: The condition of each id, of one sample; all have the same names and types.
        whole: Whether tokens that the mask leaves out are stored too.

    Raises:
        UserError: If the store refuses.
        FloatingPointError: If values are not finite, or too large for the precision.
    """
    assert len(rows) == len(ids), "these are not the shard's ids"
    return shards.put(store, plan, ids, encode(plan, ids, rows, whole))


def encode(plan: ConditionPlan, ids: range, rows: Sequence[Condition], whole: bool) -> bytes:
    """The Parquet file of these rows, which give the same bytes again; arguments as `write`."""
    first = rows[0].tensors
    formats = {name: _Format.of(name, value, plan.precision) for name, value in first.items()}
    packed = [_pack(id, row, formats, whole) for id, row in zip(ids, rows, strict=True)]
    arrays = {
        schema.ID: pa.array(ids, pa.int64()),
        _SHAPES: pa.array([_shapes(row) for row in rows], pa.string()),
        **{name: pa.array([row[name] for row in packed], pa.binary()) for name in first},
    }
    told = json.dumps({name: asdict(each) for name, each in formats.items()})
    groups = _groups([sum(map(len, row.values())) for row in packed])
    return schema.to_groups(arrays, plan.footer(tensors=told), list(groups))


def _shapes(row: Condition) -> str:
    return json.dumps({name: list(value.shape[1:]) for name, value in row.tensors.items()})


def _pack(id: int, row: Condition, formats: Mapping[str, _Format], whole: bool) -> dict[str, bytes]:
    packed = {}
    for name, value in row.tensors.items():
        mask, values = row.get(_mask_of(name)), value[0]
        if mask is not None and not whole:
            values = values[mask[0].bool()]
        elif mask is None and name.startswith("tokens"):
            values = values[: _length(values)]
        try:
            packed[name] = formats[name].pack(values)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{name} of prompt {id} {error}; set embed.precision"
            ) from None
    return packed


def _mask_of(name: str) -> str:
    """The mask of tokens; of other tensors a name that none has."""
    return name.replace("tokens", "mask") if name.startswith("tokens") else ""


def _length(tokens: Tensor) -> int:
    """Of tokens (L, D), up to the last that is not zeros."""
    told = tokens.any(-1).nonzero()
    return int(told[-1]) + 1 if len(told) else 0


def _groups(sizes: Sequence[int]) -> Iterator[int]:
    """Rows of each row group."""
    rows = size = 0
    for each in sizes:
        rows, size = rows + 1, size + each
        if rows == GROUP_ROWS or size >= GROUP_BYTES:
            yield rows
            rows = size = 0
    if rows:
        yield rows


def decode_all(file: pa.NativeFile, name: str) -> Content[dict[int, Condition]]:
    """Read a whole shard, to check it: its conditions by id; as `schema.decode_all`."""
    with schema.readable(name, schema.CONDITIONS):
        shard = pq.ParquetFile(file)
        table, metadata = schema.read_all(shard, None), schema.footer(shard)
        formats, ids = _formats(metadata), table[schema.ID].to_pylist()
        rows = {id: _unpack(table, row, formats) for row, id in enumerate(ids)}
        return Content(rows, metadata)


def _formats(metadata: Mapping[str, str]) -> dict[str, _Format]:
    return {name: _Format(**each) for name, each in json.loads(metadata["tensors"]).items()}


def _unpack(table: pa.Table, row: int, formats: Mapping[str, _Format]) -> Condition:
    """The condition of a row, of one sample; zeros where a token is not stored."""
    shapes, found = json.loads(table[_SHAPES][row].as_py()), dict[str, Tensor]()
    for name in sorted(formats):  # masks come before tokens
        shape, format = shapes[name], formats[name]
        values = format.unpack(table[name][row].as_buffer(), prod(shape))
        if len(values) != prod(shape):
            kept, mask = values.reshape(-1, *shape[1:]), found.get(_mask_of(name))
            values = values.new_zeros(shape)
            values[slice(len(kept)) if mask is None else mask[0].bool()] = kept
        found[name] = values.reshape(1, *shape)
    return Condition({name: found[name] for name in formats})


@dataclass(frozen=True)
class _Footer:
    """What reads rows of a shard: its layout, the first row of each row group, their checksums."""

    metadata: pq.FileMetaData
    starts: list[int]
    checksums: list[str]
    formats: dict[str, _Format]


class ConditionReader:
    """Rows of a set, in any order.

    Args:
        storage: A closed set.
        manifest: Its manifest.
    """

    def __init__(self, storage: Storage, manifest: Manifest[ConditionPlan]) -> None:
        self._storage, self._manifest, self._plan = storage, manifest, manifest.plan
        self._fingerprint = manifest.plan.fingerprint()
        self._footer = lru_cache(maxsize=_OPEN)(self._read_footer)

    @property
    def null(self) -> int | None:
        """Id of the row that stands for no condition; None where the network knows none."""
        return self._plan.count if self._plan.negative_prompt is not None else None

    def rows(self, ids: Sequence[int]) -> list[Condition]:
        """The condition of each id, of one sample, on the CPU.

        Raises:
            UserError: If an id has no row, or a shard is gone or damaged.
        """
        by_shard: dict[int, list[int]] = {}
        for id in sorted({*ids}):
            if not 0 <= id < self._plan.rows:
                raise UserError(
                    f"distill.conditions: {self._storage.uri()} has the conditions of "
                    f"{self._plan.count} prompts, and none for the label {id}; make pairs and "
                    "conditions of the same teacher.prompts"
                )
            by_shard.setdefault(id // self._plan.shard_size, []).append(id)
        found: dict[int, Condition] = {}
        for part in self._parts(by_shard.items()):
            found |= part
        return [found[id] for id in ids]

    def _parts(self, items: Iterable[tuple[int, list[int]]]) -> Iterable[dict[int, Condition]]:
        if self._storage.folder:
            return map(self._read, items)
        return ahead(self._read, items, _THREADS)

    @twice
    def _read(self, item: tuple[int, list[int]]) -> dict[int, Condition]:
        """The conditions of some ids of one shard."""
        index, ids = item
        try:
            return self._read_rows(index, ids)
        except DamagedError:
            self._footer.cache_clear()  # it may be what is wrong
            raise

    def _read_rows(self, index: int, ids: Sequence[int]) -> dict[int, Condition]:
        shard, footer = self._manifest.shards[index], self._footer(index)
        found, tables = {}, dict[int, pa.Table]()
        remote = self._storage.folder is None
        with self._storage.open(shard.name) as file, self._readable(shard.name):
            opened = pq.ParquetFile(file, metadata=footer.metadata, pre_buffer=remote)
            for id in ids:
                row = id - shard.first
                group = bisect_right(footer.starts, row) - 1
                if group not in tables:
                    tables[group] = opened.read_row_group(group, use_threads=False)
                    if (actual := checksum(tables[group])) != footer.checksums[group]:
                        raise ValueError(f"row group {group} has the checksum {actual}")
                found[id] = _unpack(tables[group], row - footer.starts[group], footer.formats)
        return found

    def _read_footer(self, index: int) -> _Footer:
        shard = self._manifest.shards[index]
        with self._storage.open(shard.name) as file, self._readable(shard.name):
            if (size := file.size()) != shard.bytes:
                raise ValueError(f"{size} bytes, {shard.bytes} expected")
            opened = pq.ParquetFile(file)
            metadata, told = opened.metadata, schema.footer(opened)
            if (plan := told.get("plan")) != self._fingerprint:
                raise ValueError(f"plan {plan}, not {self._fingerprint}")
            sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            if sum(sizes) != shard.rows:
                raise ValueError(f"{sum(sizes)} rows, {shard.rows} expected")
            starts = [0, *accumulate(sizes)][:-1]
            return _Footer(metadata, starts, json.loads(told["checksums"]), _formats(told))

    def _readable(self, name: str) -> AbstractContextManager[None]:
        return schema.readable(self._storage.uri(name), schema.CONDITIONS)
