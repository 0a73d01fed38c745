"""Images in a column of Parquet files: bytes, or Hugging Face's struct of bytes and path."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.sources.image_column import content, image_column, leaf, why_none
from pipeline.data.sources.left_out import LeftOut
from pipeline.data.sources.place import reading
from pipeline.data.sources.sample import (
    THREADS,
    Sample,
    SourceError,
    Wanted,
    column,
    read_annotation,
)
from pipeline.data.storage import Store
from pipeline.utils.threads import ahead

_LISTED, _READ = 2**20, 2**23
"""Bytes of a column that are read at once, to list a file and to read its images."""
_SLICE = 2**26
"""Bytes of images that are decoded at once, about."""
_MOST = 2**28
"""The same, even if every row were as large as the column of its row group."""
_KEPT = 3 * _SLICE, 8
"""Bytes of images that stay in memory, and images that do whatever their size."""
_TOGETHER = 2**16
"""Rows that are read at once at most."""
_IMAGES = 10
"""Images that a byte of a file may stand for."""
_FOLD = 1000
"""Bytes of text that a byte of a file may stand for: few can stand for many GB."""
_ROWS = (8, 64)
"""Images that are decoded at once, at least and at most."""


def parts(names: Sequence[str]) -> list[str]:
    """The files of such a source among these."""
    return [name for name in names if name.lower().endswith(".parquet")]


def samples(
    store: Store, names: Sequence[str], wanted: Wanted, classes: int | None, left: LeftOut
) -> Iterator[Sample]:
    """All rows, file after file.

    Raises:
        SourceError: If a file cannot be read or lacks a column.
    """
    for found in ahead(lambda name: _scan(store, name, wanted), names, THREADS):
        yield from found


def has_images(store: Store, name: str) -> bool:
    """Whether a Parquet file has a column of images."""
    with reading(store, name):
        return image_column(_open(store, name)) is not None


def records(store: Store, name: str, key: str, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The rows of a table without images, with the column `key` and the one that is wanted.

    Raises:
        SourceError: If the file cannot be read or lacks the key.
    """
    where = store.uri(name)
    with reading(store, name):
        file = _open(store, name)
        names = file.schema_arrow.names
        if key not in names:
            raise SourceError(f"{where} has no column {key}; it has {', '.join(names)}")
        found = column(names, wanted, where)
        chosen, read = [key, found] if found else [key], 0
        for batch in file.iter_batches(
            min(_rows_at_most(file, each) for each in chosen), columns=chosen, use_threads=False
        ):
            yield from batch.to_pylist()
            read += len(batch)
        _all_of(file, read)


def _open(store: Store, name: str, block: int = _LISTED) -> pq.ParquetFile:
    file = pq.ParquetFile(store.open(name), buffer_size=block, page_checksum_verification=True)
    names = file.schema_arrow.names
    if twice := [each for each in names if names.count(each) > 1]:
        raise SourceError(f"{store.uri(name)} has two columns {twice[0]}; rename one")
    return file


def _all_of(file: pq.ParquetFile, read: int) -> None:
    """Raises ValueError if a column has other rows than the file's footer says: it is damaged."""
    if read != (said := file.metadata.num_rows):
        raise ValueError(f"it says {said} rows, and has {read}")


def _size(store: Store, name: str) -> int:
    with store.open(name) as file:
        return int(file.size())


def _scan(store: Store, name: str, wanted: Wanted) -> list[Sample]:
    where = store.uri(name)
    with reading(store, name):
        file, size = _open(store, name), _size(store, name)
        columns, count = file.schema_arrow.names, file.metadata.num_rows
        if image_column(file) is None:
            raise SourceError(f"{where} {why_none(file)}")
        if count > _IMAGES * size:
            raise SourceError(f"{where} cannot have {count} images in {size} bytes; leave it out")
        if wanted == "nothing":
            return [Sample(name, row) for row in range(count)]
        if (chosen := column(columns, wanted, where)) is None:
            raise SourceError(f"{where} has no column of {wanted}; it has {', '.join(columns)}")
        values = _values(file, chosen, size, where)
        _all_of(file, len(values))
    return [
        Sample(name, row, annotation=read_annotation(value, wanted, f"row {row} of {where}"))
        for row, value in enumerate(values)
    ]


def _values(file: pq.ParquetFile, name: str, size: int, where: str) -> list[Any]:
    """Of a column; raises SourceError if they are more than a file of this size has room for."""
    values: list[Any] = []
    read = 0
    for batch in file.iter_batches(_rows_at_most(file, name), columns=[name], use_threads=False):
        read += batch.nbytes
        if read > _FOLD * size:
            raise SourceError(
                f"{where} cannot have {read} bytes in the column {name}, as it has {size} itself; "
                "leave it out"
            )
        values += batch.column(0).to_pylist()
    return values


class Reader:
    """Gives the bytes of an image; many threads may ask at once.

    It reads onward in the last two files, in slices, so that it does not matter how large their
    row groups are.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._images = lru_cache(maxsize=2)(self._open)

    def read(self, sample: Sample) -> bytes:
        with self._lock, reading(self._store, sample.file):
            return self._images(sample.file).at(sample.at)

    def _open(self, name: str) -> "_Images":
        return _Images(_open(self._store, name, _READ))


class _Images:
    """The images of one file, by row.

    The last slices stay in memory: threads ask in nearly the order of the rows.
    """

    def __init__(self, file: pq.ParquetFile) -> None:
        name = image_column(file)
        if name is None:
            raise ValueError("its column of images is gone")
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        self._file, self._leaf = file, leaf(file, name)
        self._ends = list(accumulate(group.num_rows for group in groups))
        self._size = min(_rows_of_slice(groups, self._leaf), _rows_at_most(file, self._leaf))
        self._slices: deque[tuple[int, pa.Array]] = deque()
        self._bytes, self._rows, self._next = 0, 0, -1
        self._onward: Iterator[pa.RecordBatch] = iter(())

    def at(self, row: int) -> bytes:
        for start, values in self._slices:
            if start <= row < start + len(values):
                return content(values[row - start])
        group = bisect_right(self._ends, row)
        begin = self._ends[group - 1] if group else 0
        if not begin <= self._next <= row:
            self._go_to(group, begin)
        return self._read_on(row)

    def _go_to(self, group: int, begin: int) -> None:
        groups = range(group, len(self._ends))
        self._next = begin
        self._onward = self._file.iter_batches(
            self._size, list(groups), columns=[self._leaf], use_threads=False
        )

    def _read_on(self, row: int) -> bytes:
        for batch in self._onward:
            values, start = batch.column(0), self._next
            self._keep(start, values)
            self._next += len(values)
            if row < self._next:
                return content(values[row - start])
        raise ValueError(f"it has no row {row} any more")

    def _keep(self, start: int, values: pa.Array) -> None:
        most, least = _KEPT
        self._slices.append((start, values))
        self._bytes += values.nbytes
        self._rows += len(values)
        while self._bytes > most and self._rows - len(self._slices[0][1]) >= least:
            _, oldest = self._slices.popleft()
            self._bytes -= oldest.nbytes
            self._rows -= len(oldest)


def _rows_of_slice(groups: Sequence[Any], path: str) -> int:
    """Images of a slice, from the mean size of those in the file."""
    chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
    size = sum(each.total_uncompressed_size for each in chunks if each.path_in_schema == path)
    mean = size // max(1, sum(group.num_rows for group in groups))
    least, most = _ROWS
    return max(least, min(most, _SLICE // max(1, mean)))


def _rows_at_most(file: pq.ParquetFile, path: str) -> int:
    """Rows of a column that are read at once at most."""
    column = path.partition(".")[0]
    groups = map(file.metadata.row_group, range(file.num_row_groups))
    chunks = (group.column(n) for group in groups for n in range(group.num_columns))
    sizes = [
        each.total_uncompressed_size
        for each in chunks
        if each.path_in_schema.partition(".")[0] == column
    ]
    return max(1, min(_TOGETHER, _MOST // max(1, *sizes, 1)))
