"""A set of real images, as the teacher denoises them: latents or pixels.

It is stored as a set of pairs is (`shards`), with the source's listing beside it, and with
`damaged-<first id>-<end>.json` for every shard that lacks images which could not be read. A shard
has the columns `sample_id`, `label` or `caption` where there are such, and `image`; laid out as
those of pairs (`schema`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic_core import from_json
from torch import Tensor

from pipeline.data import crop, schema, shards
from pipeline.data.manifest import Manifest
from pipeline.data.plans import RealPlan
from pipeline.data.schema import Content
from pipeline.data.storage import Store
from pipeline.data.twice import twice
from pipeline.utils.errors import DamagedError, UserError

PREPARATION = f"{crop.PREPARATION}; the VAE's mode"
_DAMAGED = "damaged-"


@dataclass(frozen=True)
class RealBatch:
    """Real images, as the teacher denoises them.

    Attributes:
        ids: Their numbers in the source's listing, (B,) int64.
        labels: Class labels, (B,) int64, or None.
        captions: Of each, or None; several of one image are a tuple.
        images: Latents of unit variance or pixels in [-1, 1], (B, C, H, W), float32 (float16
            straight from a shard).
    """

    ids: Tensor
    labels: Tensor | None
    captions: tuple[str | tuple[str, ...], ...] | None
    images: Tensor

    def rows(self, rows: Tensor | slice) -> "RealBatch":
        """The images at these positions; a slice gives views."""
        labels, captions = self.labels, self.captions
        if captions is not None:
            captions = tuple(captions[row] for row in torch.arange(len(captions))[rows].tolist())
        return RealBatch(
            self.ids[rows], None if labels is None else labels[rows], captions, self.images[rows]
        )

    def drawn(self, rng: torch.Generator) -> "RealBatch":
        """The same with one caption of each image, drawn where there are several."""

        def one(caption: str | tuple[str, ...]) -> str:
            if isinstance(caption, str):
                return caption
            return caption[int(torch.randint(len(caption), (), generator=rng))]

        captions = self.captions and tuple(map(one, self.captions))
        return replace(self, captions=captions)

    def float(self) -> "RealBatch":
        """The same with images in float32."""
        return replace(self, images=self.images.float())


@dataclass(frozen=True)
class Damaged:
    """An image that could not be read, and has no row."""

    id: int
    image: str
    reason: str


def write(
    store: Store, plan: RealPlan, ids: range, batch: RealBatch, damaged: Sequence[Damaged] = ()
) -> str:
    """Store one shard, unless it is there already; returns its name.

    Args:
        store: Where the set is.
        plan: Of the set.
        ids: Of the shard.
        batch: Its images, by id.
        damaged: Those which are not among them; they are noted first.

    Raises:
        UserError: If the store refuses, or another node could not read other images.
    """
    found = {*batch.ids.tolist(), *(each.id for each in damaged)}
    assert found == set(ids), "these are not the shard's ids"
    _note(store, f"{_DAMAGED}{ids.start:012d}-{ids.stop:012d}.json", damaged)
    return shards.put(store, plan, ids, encode(batch, plan.footer(preparation=PREPARATION)))


def _note(store: Store, name: str, damaged: Sequence[Damaged]) -> None:
    """Say which images a shard lacks; in whose words does not matter if it is said already."""
    text = json.dumps([asdict(each) for each in damaged], indent=1) + "\n"
    if damaged and store.put(name, text.encode()):
        return
    known = _damaged(store, name) if name in store.list(name) else []
    if {each.id for each in known} != {each.id for each in damaged}:
        raise UserError(
            f"{store.uri(name)} lists other images than this node cannot read; install the same "
            "constraints.txt on all nodes, delete it and run jobs/encode.py again"
        )


def close(store: Store, plan: RealPlan, max_damaged: float = 1) -> Manifest[RealPlan]:
    """Put the manifest of a complete set, or return the one that is there.

    Args:
        store: Where the set is.
        plan: Of the set.
        max_damaged: Share of its images that may lack a row.

    Raises:
        UserError: If a shard is missing, or not the one an earlier manifest lists; if more images
            lack a row, or all.
    """
    check_share(store, plan.count, max_damaged)
    notes = {name: _damaged(store, name) for name in store.list(_DAMAGED)}
    rows = {int(name[len(_DAMAGED) :][:12]): len(found) for name, found in notes.items()}
    return shards.close(store, plan, plan.count, rows)


def check_share(store: Store, count: int, most: float) -> None:
    """Make sure that no more than a share of a set's images lack a row, and not all of them.

    Args:
        store: Where the set is.
        count: Its images.
        most: The share, 0 to 1.

    Raises:
        UserError: If more do; names the first.
    """
    lacking = list(damaged(store))
    if len(lacking) < count and len(lacking) <= most * count:
        return
    first = "; ".join(f"{each.image} (id {each.id}): {each.reason}" for each in lacking[:3])
    told = f"{len(lacking)} of {count} images cannot be read, the first of them {first}"
    if len(lacking) == count:
        raise UserError(f"encode.source: {told}; give images that can be read")
    raise UserError(
        f"encode.max_damaged {most:g}: {told}; all: damaged-*.json; raise "
        "encode.max_damaged and run again to go without them: nothing is encoded anew"
    )


def damaged(store: Store) -> Iterator[Damaged]:
    """All images without a row, by id; raises UserError if a note of them is damaged itself."""
    return chain.from_iterable(_damaged(store, name) for name in store.list(_DAMAGED))


@twice
def _damaged(store: Store, name: str) -> list[Damaged]:
    try:
        return [Damaged(**each) for each in from_json(store.get(name))]
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{store.uri(name)} is damaged ({error}); delete it") from error


def encode(batch: RealBatch, metadata: Mapping[str, str]) -> bytes:
    """The Parquet file of these images; the same images and metadata give the same bytes."""
    arrays = schema.numbers(batch.ids, batch.labels)
    if batch.captions is not None:
        arrays[schema.CAPTION] = schema.texts(batch.captions)
    arrays[schema.IMAGE] = schema.to_binary(batch.images)
    return schema.to_file(arrays, metadata, batch.images)


def decode(
    file: pa.NativeFile, group: int, shape: tuple[int, ...], plan: str, name: str
) -> RealBatch:
    """Read one row group of a shard; as `schema.decode`."""
    with schema.readable(name, schema.REAL):
        return _batch(schema.read_group(file, group, plan, name), shape)


def decode_all(file: pa.NativeFile, shape: tuple[int, ...], name: str) -> Content[RealBatch]:
    """Read a whole shard, to check it; as `schema.decode_all`."""
    with schema.readable(name, schema.REAL):
        shard = pq.ParquetFile(file)
        return Content(_batch(schema.read_all(shard), shape), schema.footer(shard))


def _batch(table: pa.Table, shape: tuple[int, ...]) -> RealBatch:
    named = schema.CAPTION in table.column_names
    captions = tuple(schema.from_texts(table[schema.CAPTION])) if named else None
    images = schema.images_of(table, schema.IMAGE, shape)
    return RealBatch(*schema.numbers_of(table), captions, images)
