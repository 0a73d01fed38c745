"""Which image of a source has which id: listed once, and kept beside the set."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import S3Config
from pipeline.data.schema import footer
from pipeline.data.sources import files, rows, tars
from pipeline.data.sources.sample import Sample, Wanted, is_image
from pipeline.data.store import Store, open_store
from pipeline.errors import UserError
from pipeline.progress import Progress, progress

NAME = "listing.parquet"
GROUP = 1000
"""Rows of a row group of the listing."""
_KINDS = {"image": files, "Parquet": rows, "tar": tars}
_SINGLE = (".parquet", ".tar")


class Reader(Protocol):
    """Gives the bytes of images; many threads may ask at once."""

    def read(self, sample: Sample) -> bytes:
        """All bytes of an image's file; raises UserError if the source refuses."""


class Listing:
    """The listing that a set's store has.

    Args:
        store: Of the set.

    Raises:
        UserError: If there is none.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._footer = footer(self._file)

    @property
    def source(self) -> str:
        """Fingerprint of the source's files, and of what was asked of them."""
        return self._footer["source"]

    @property
    def count(self) -> int:
        """Number of images; their ids are 0 to count - 1."""
        return int(self._file.metadata.num_rows)

    def reader(self, path: str, s3: S3Config) -> Reader:
        """Gives the images of the source at this path."""
        store, _ = _open(path, s3)
        return _KINDS[self._footer["kind"]].Reader(store)

    def samples(self, ids: range) -> list[Sample]:
        """The images with these ids."""
        groups = range(ids.start // GROUP, (ids.stop - 1) // GROUP + 1)
        table = self._file.read_row_groups(list(groups), use_threads=False)
        table = table.slice(ids.start - groups.start * GROUP, len(ids))
        columns = (column.to_pylist() for column in table.columns)
        return [Sample(*row) for row in zip(*columns, strict=True)]

    @cached_property
    def _file(self) -> pq.ParquetFile:
        where = self._store.where(NAME)
        try:
            return pq.ParquetFile(self._store.open(NAME))
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{where} is damaged ({str(error).partition(chr(10))[0]}); choose another "
                "encode.output"
            ) from error


def open_listing(
    store: Store, path: str, s3: S3Config, wanted: Wanted, classes: int | None
) -> Listing:
    """The listing of a source; it is made and put in the set's store unless it is there.

    Args:
        store: Of the set.
        path: Of the source: a folder, a .parquet or .tar file, here or in a bucket.
        s3: Where S3 is.
        wanted: What the teacher needs to know of each image.
        classes: Number of class labels, where labels are wanted.

    Raises:
        UserError: If there are no images, something cannot be read or is not said, or the listing
            that is there is of another source or state of it.
    """
    source, names = _open(path, s3)
    marks = source.tree()
    if names is None:
        names = [name for name in marks if not _hidden(name)]
    elif not set(names) <= marks.keys():
        raise UserError(f"encode.source: there is no {path}")
    kind = _kind(source, names)
    names = _KINDS[kind].parts(names)
    content = [kind, wanted, classes, {name: marks[name] for name in names}]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    if NAME not in store.list(NAME):
        units = [name for name in names if kind != "image" or is_image(name)]
        with progress(len(units), "listing", "files") as bar:
            found = _KINDS[kind].samples(source, names, wanted, classes)
            table = _table(_shown(found, bar), wanted)
        _check(table, wanted, classes, source)
        store.put(NAME, _dump(table, {"source": fingerprint, "kind": kind}))
    listing = Listing(store)
    if listing.source != fingerprint:
        raise UserError(
            f"encode.source: {path} is not what {store.where(NAME)} lists, or has changed since; "
            "choose another encode.output, or delete all of that one"
        )
    return listing


def _open(path: str, s3: S3Config) -> tuple[Store, list[str] | None]:
    """The source's store, and the one file in it that the path names, if it does."""
    path = path.rstrip("/")
    if not path.endswith(_SINGLE):
        return open_store(path, s3, "encode.source"), None
    folder, _, name = path.rpartition("/")
    return open_store(folder, s3, "encode.source"), [name]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _kind(source: Store, names: Sequence[str]) -> str:
    """What the images are in; Parquet without images may lie beside images, as their metadata."""
    images = any(map(is_image, names))
    if tars.parts(names):
        return "tar"
    if (tables := rows.parts(names)) and not (images and not rows.has_images(source, tables[0])):
        return "Parquet"
    if not images:
        raise UserError(
            f"encode.source: no images in {source.where('')}; give a folder of images, of Parquet "
            "files or of WebDataset's .tar files"
        )
    return "image"


def _shown(samples: Iterable[Sample], bar: Progress) -> Iterator[Sample]:
    last = None
    for sample in samples:
        bar.update(sample.file != last)
        last = sample.file
        yield sample


def _table(samples: Iterable[Sample], wanted: Wanted) -> pa.Table:
    file: list[str] = []
    at: list[int] = []
    size: list[int] = []
    said: list[str | int | None] = []
    for sample in samples:
        file.append(sample.file)
        at.append(sample.at)
        size.append(sample.size)
        said.append(sample.said)
    columns: dict[str, Any] = {"file": pa.array(file, pa.string()), "at": at, "size": size}
    if wanted != "nothing":
        kind = pa.int64() if wanted == "labels" else pa.string()
        columns[wanted.removesuffix("s")] = pa.array(said, kind)
    return pa.table(columns)


def _check(table: pa.Table, wanted: Wanted, classes: int | None, source: Store) -> None:
    """Every image is there for something."""
    if not len(table):
        raise UserError(f"encode.source: the files in {source.where('')} hold no images")
    if wanted == "nothing":
        return
    said = table[wanted.removesuffix("s")]
    if said.null_count:
        first = table["file"][said.is_null().to_pylist().index(True)]
        raise UserError(
            f"encode.source: {said.null_count} of {len(table)} images have no {wanted[:-1]}, the "
            f"first in {source.where(str(first))}; the teacher needs one of each"
        )
    if wanted == "labels" and classes is not None:
        highest = max(said.to_pylist())
        if highest >= classes:
            raise UserError(
                f"encode.source: label {highest}, but the teacher has {classes} classes, 0 to "
                f"{classes - 1}"
            )


def _dump(table: pa.Table, metadata: dict[str, str]) -> bytes:
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table, row_group_size=GROUP)
        writer.add_key_value_metadata(metadata)
    return bytes(file.getvalue())
