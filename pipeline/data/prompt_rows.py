"""The rows of one file of prompts: each prompt, and what stands in the columns of images."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data import text
from pipeline.data.sources.sample import NAMES, field
from pipeline.data.sources.sample import column as one_column
from pipeline.data.storage import Store
from pipeline.data.text import TextError

TEXTS, TABLES = (".txt", ".csv", ".jsonl"), (".parquet", ".arrow")
"""Endings of the names of files."""
_FEATHER = b"ARROW1"
_LISTED = b"source"
"""What only the listing of a set of images says in its footer."""
_OTHER_COMMAS = ";\t|"


class Row(NamedTuple):
    """A prompt, or None, and the images beside it: what stands in their columns, or comes of it."""

    prompt: Any
    images: tuple[Any, ...] = ()


def rows_of(store: Store, name: str, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of one file.

    Args:
        store: Where it is.
        name: Of the file, which ends as one of `TEXTS` and `TABLES`.
        columns: Of images.

    Raises:
        TextError: If it is not what its name says, or lacks a column or a value in one of images.
    """
    where, ending = store.uri(name), PurePosixPath(name).suffix.lower()
    with store.open(name) as file:
        if ending in TABLES:
            yield from (_parquet if ending == ".parquet" else _arrow)(file, where, columns)
            return
        lines = text.lines(file, where)
        if ending == ".csv":
            yield from _of_rows(lines, where, columns)
        elif ending == ".jsonl":
            yield from _of_records(text.records(lines, where), where, columns)
        else:
            _need((), columns, where)
            yield from map(Row, lines)


def _need(names: Iterable[str], columns: Sequence[str], where: str) -> None:
    """Raises TextError if a file lacks a column of images."""
    if missing := sorted({*columns}.difference(names)):
        raise TextError(
            f"{where} has no column {missing[0]}, which teacher.prompt_images names; it has "
            f"{', '.join(names) or 'none'}"
        )


def _of_rows(lines: Iterator[str], where: str, columns: Sequence[str]) -> Iterator[Row]:
    """The column of prompts of a CSV file.

    Raises:
        TextError: As `rows` and `_column`, or if it is no comma that separates the columns.
    """
    header, column = next(lines, ""), ""
    others = [mark for mark in _OTHER_COMMAS if mark in header]
    if (
        others
        and field((name.strip('"') for name in header.strip().split(",")), "captions") is None
    ):
        raise TextError(f"{where} has {others[0]!r} between its columns; separate them by commas")
    for row in text.rows(chain([header], lines), where):
        if not column:
            column = _column(list(row), where)
            _need(row, columns, where)
        yield Row(row[column], tuple(row[each] for each in columns))


def _of_records(
    records: Iterable[dict[str, Any]], where: str, columns: Sequence[str]
) -> Iterator[Row]:
    """What each record says; not every one needs the column.

    Raises:
        TextError: If none of them has it, or it holds anything but text.
    """
    known, others = False, list[str]()
    for number, record in enumerate(records, 1):
        if (column := field(record, "captions")) is None:
            others = others or list(record)
            yield Row(None)
            continue
        known = True
        if not isinstance(value := record[column], str | None):
            kind = type(value).__name__
            raise TextError(f"record {number} of {where} has a {column} of type {kind}, not text")
        yield Row(value, tuple(record.get(each) for each in columns))
    if others and not known:
        _column(others, where)


def _column(names: list[str], where: str) -> str:
    """The one that holds the prompts.

    Raises:
        TextError: If there is none, or two have its name.
    """
    column = one_column(names, "captions", where)
    if column is None:
        raise TextError(
            f"{where} has no column {', '.join(NAMES['captions'])}; it has {', '.join(names)}; "
            "rename the one with the prompts"
        )
    return column


def _parquet(source: pa.NativeFile, where: str, columns: Sequence[str]) -> Iterator[Row]:
    """These columns alone, one row group in memory; of a listing all captions.

    Raises:
        TextError: If these have other rows than the file says.
    """
    file = pq.ParquetFile(source, page_checksum_verification=True)
    ours = _LISTED in (file.metadata.metadata or {})
    column = _text_column(file.schema_arrow, where, ours)
    _need(file.schema_arrow.names, columns, where)
    left = file.metadata.num_rows
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[column, *columns], use_threads=False)
        left -= table.num_rows
        for row in _of_table(table, column, columns):
            for prompt in row.prompt if isinstance(row.prompt, list) else [row.prompt]:
                yield row._replace(prompt=prompt)
    if left:
        raise TextError(
            f"{where} is damaged: it says {file.metadata.num_rows} rows, and has "
            f"{file.metadata.num_rows - left}; fetch it again"
        )


def _arrow(source: pa.NativeFile, where: str, columns: Sequence[str]) -> Iterator[Row]:
    """One batch in memory; of a stream as `datasets` writes, or a file."""
    head = source.read(len(_FEATHER))
    source.seek(0)
    if head == _FEATHER:
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        file = batches = pa.ipc.open_stream(source)
    column = _text_column(file.schema, where)
    _need(file.schema.names, columns, where)
    for batch in batches:
        yield from _of_table(batch, column, columns)


def _of_table(
    table: pa.Table | pa.RecordBatch, column: str, columns: Sequence[str]
) -> Iterator[Row]:
    prompts, *images = (table.column(each).to_pylist() for each in (column, *columns))
    return (Row(prompt, tuple(beside)) for prompt, *beside in zip(prompts, *images, strict=True))


def _text_column(schema: pa.Schema, where: str, lists: bool = False) -> str:
    """As `_column`; raises TextError besides if it does not hold text, or lists of it."""
    column = _column(schema.names, where)
    kind = held = schema.field(column).type
    if lists and pa.types.is_list(kind):
        held = kind.value_type
    if pa.types.is_dictionary(kind):
        held = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(held) for is_text in (*texts, pa.types.is_null)):
        raise TextError(f"the column {column} of {where} is {kind}, not text; make it a string")
    return column
