"""Images in a column of Parquet files: bytes, or Hugging Face's struct of bytes and path."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.sources.sample import (
    THREADS,
    Sample,
    SourceError,
    Wanted,
    field,
    read_annotation,
)
from pipeline.data.storage import Store
from pipeline.utils.threads import ahead


def parts(names: Sequence[str]) -> list[str]:
    """The files of such a source among these."""
    return [name for name in names if name.endswith(".parquet")]


def samples(
    store: Store, names: Sequence[str], wanted: Wanted, classes: int | None
) -> Iterator[Sample]:
    """All rows, file after file.

    Raises:
        SourceError: If a file cannot be read or lacks a column.
    """
    for found in ahead(lambda name: _scan(store, name, wanted), names, THREADS):
        yield from found


def has_images(store: Store, name: str) -> bool:
    """Whether a Parquet file has a column of images."""
    try:
        return _image_column(pq.ParquetFile(store.open(name)).schema_arrow) is not None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(store, name, error) from error


def _scan(store: Store, name: str, wanted: Wanted) -> list[Sample]:
    where = store.uri(name)
    try:
        file = pq.ParquetFile(store.open(name))
        columns = file.schema_arrow.names
        if _image_column(file.schema_arrow) is None:
            raise SourceError(
                f"{where} has no column of images (binary, or a struct with bytes); "
                f"it has {', '.join(columns)}"
            )
        if wanted == "nothing":
            return [Sample(name, row) for row in range(file.metadata.num_rows)]
        if (column := field(columns, wanted)) is None:
            raise SourceError(f"{where} has no column of {wanted}; it has {', '.join(columns)}")
        values = file.read([column], use_threads=False)[column].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(store, name, error) from error
    return [
        Sample(name, row, annotation=read_annotation(value, wanted, f"row {row} of {where}"))
        for row, value in enumerate(values)
    ]


class Reader:
    """Gives the bytes of an image; many threads may ask at once.

    Whole row groups are read, the last two stay in memory.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._file = lru_cache(maxsize=2)(self._open)
        self._group = lru_cache(maxsize=2)(self._read_group)

    def read(self, sample: Sample) -> bytes:
        with self._lock:
            try:
                _, ends = self._file(sample.file)
                number = bisect_right(ends, sample.at)
                start = ends[number - 1] if number else 0
                value = self._group(sample.file, number)[sample.at - start].as_py()
            except (pa.ArrowException, OSError, IndexError) as error:
                raise _unreadable(self._store, sample.file, error) from error
        return (value.get("bytes") if isinstance(value, dict) else value) or b""

    def _open(self, name: str) -> tuple[pq.ParquetFile, list[int]]:
        """A file, and the row after the last one of each of its groups."""
        file = pq.ParquetFile(self._store.open(name))
        groups = range(file.num_row_groups)
        return file, list(accumulate(file.metadata.row_group(g).num_rows for g in groups))

    def _read_group(self, name: str, number: int) -> pa.ChunkedArray:
        file, _ = self._file(name)
        column = _image_column(file.schema_arrow)
        return file.read_row_group(number, [column], use_threads=False)[column]


def _image_column(schema: pa.Schema) -> str | None:
    """The first that holds bytes, `image` before others."""
    held = [column.name for column in schema if _holds_bytes(column.type)]
    return "image" if "image" in held else next(iter(held), None)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _unreadable(store: Store, name: str, error: Exception) -> SourceError:
    reason = str(error).partition("\n")[0]
    return SourceError(f"cannot read {store.uri(name)} ({reason}); fetch the file again")
