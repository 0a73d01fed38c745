"""Prompts from files: text, CSV, JSON Lines, Parquet, Arrow, or a Hugging Face dataset's folder."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import S3Config, TeacherConfig
from pipeline.data import text
from pipeline.data.sources.left_out import LeftOut, is_hidden
from pipeline.data.sources.place import Place
from pipeline.data.sources.sample import NAMES, SourceError, field
from pipeline.data.sources.sample import column as one_column
from pipeline.data.storage import Storage, Store
from pipeline.data.text import TextError
from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import CACHE_WAY_OUT, cache_folder, write_pieces

_COPY = ".prompts"
_TEXTS, _TABLES = (".txt", ".csv", ".jsonl"), (".parquet", ".arrow")
_MAPPED = re.compile(r"(^|/)cache-[^/]*\.arrow$")
"""What `map` and `filter` of a dataset leave behind."""
_NOTES = ("state.json", "dataset_info.json", "dataset_dict.json")
_FEATHER = b"ARROW1"
_LISTED = b"source"
"""What only the listing of a set of images says in its footer."""
_OTHER_COMMAS = ";\t|"


def local_prompts(teacher: TeacherConfig, credentials: S3Config) -> TeacherConfig:
    """The same settings, with `prompts` as a local file of one JSON string a line.

    Raises:
        UserError: If the file cannot be read or has no prompts.
    """
    if teacher.prompts is None or teacher.prompts.endswith(_COPY):
        return teacher
    digest = hashlib.sha256()

    def lines() -> Iterator[bytes]:
        for prompt in read_prompts(str(teacher.prompts), credentials):
            yield (line := f"{json.dumps(prompt)}\n".encode())
            digest.update(line)

    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with scratch.folder_beside(cache / "prompts") as fresh:
            write_pieces(fresh / "prompts", lines(), CACHE_WAY_OUT)
            file = cache / f"{digest.hexdigest()[:32]}{_COPY}"
            if not file.is_file():  # others may be reading it, on other nodes too
                (fresh / "prompts").replace(file)
    except OSError as error:
        raise UserError(f"cannot write to {cache}: {error.strerror}; {CACHE_WAY_OUT}") from error
    return teacher.model_copy(update={"prompts": str(file)})


def read_prompts(path: str, credentials: S3Config) -> Iterator[str]:
    """All prompts of a file or folder, local or not, in order, without the space around them.

    Rows without a prompt are left out; one printed line counts them. Raises as `local_prompts`.
    """
    rows = prompts = 0
    store, names = _files(path.rstrip("/") or "/", credentials)
    for name in names:
        with _readable(store.uri(name)):
            for row in _read(store, name):
                rows += 1
                if prompt := (row or "").strip():
                    prompts += 1
                    yield _clean(prompt, store.uri(name))
    if not prompts:
        raise UserError(
            f"teacher.prompts: no prompts in {path}; give a file that ends in "
            f"{', '.join(_TEXTS + _TABLES)}, or the folder of a Hugging Face dataset"
        )
    if left := rows - prompts:
        print(f"prompts  {left} of {rows} rows without a prompt left out")


def _files(path: str, credentials: S3Config) -> tuple[Store, list[str]]:
    """A store, and the names of the files in it that hold the prompts, in order."""
    if (ending := _ending(path)) in _TEXTS + _TABLES:
        name = path.rpartition("/")[2]
        store = Storage(path.removesuffix(name), credentials, "teacher.prompts")
        if name in store.list(name):
            return store, [name]
    store = Storage(path, credentials, "teacher.prompts")
    with _readable(path):
        found = Place(store, None).versions()
        shown = [name for name, mark in found.items() if mark and not is_hidden(name)]
        own = [name for name in shown if not _MAPPED.search(name)]
        names = _of_one_kind(_of_dataset(store, own), path)
    _tell_others(set(found) - {*names})
    if not names and ending in _TEXTS + _TABLES:
        raise UserError(f"teacher.prompts: there is no {path}")
    return store, names


def _tell_others(names: Iterable[str]) -> None:
    """Count the files of a folder that hold no prompts, but for what `datasets` notes itself."""
    left = LeftOut()
    for name in sorted(names):
        if PurePosixPath(name).name not in _NOTES:
            left.add_file(name)
    if str(left):
        print(f"prompts  other files are not read: {left}", flush=True)


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _of_dataset(store: Store, names: list[str]) -> list[str]:
    """What `save_to_disk` says are its files, where it made the folder; else all of them.

    Raises:
        TextError: If it has several splits, or lacks a file.
    """
    if "dataset_dict.json" in names:
        splits = _json(store, "dataset_dict.json").get("splits", [])
        if len(splits) > 1:
            raise TextError(
                f"{store.uri('')} has the splits {', '.join(splits)}; give the folder of one: "
                f"{store.uri(splits[0])}"
            )
    for state in [name for name in names if PurePosixPath(name).name == "state.json"]:
        folder = state.removesuffix("state.json")
        if f"{folder}dataset_info.json" in names:
            wanted = {folder + name for name in _data_files(store, state)}
            if missing := sorted(wanted.difference(names)):
                raise TextError(f"{store.uri(state)} names {missing[0]}, which is not there")
            names = [each for each in names if each in wanted or not each.startswith(folder)]
    return names


def _data_files(store: Store, state: str) -> list[str]:
    """Names of a dataset's files, as its state has them."""
    match _json(store, state).get("_data_files"):
        case list(files) if all(isinstance(each, dict) and "filename" in each for each in files):
            return [str(each["filename"]) for each in files]
    raise TextError(f"{store.uri(state)} is damaged; save the dataset once more")


def _json(store: Store, name: str) -> dict[str, Any]:
    where = store.uri(name)
    return text.record(text.decode(store.get(name), where), where)


def _of_one_kind(names: list[str], path: str) -> list[str]:
    """The tables among these; where there are none, the files of text.

    Raises:
        TextError: If the files of text are of several kinds.
    """
    texts = [name for name in names if _ending(name) in _TEXTS]
    if tables := [name for name in names if _ending(name) in _TABLES]:
        return tables
    if len(kinds := sorted({_ending(name) for name in texts})) > 1:
        raise TextError(f"{path} has files of {' and '.join(kinds)}; name one of them")
    return texts


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (SourceError, TextError) as error:
        raise UserError(f"teacher.prompts: {error}") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"teacher.prompts: cannot read {where}: {reason}") from error


def _clean(prompt: str, where: str) -> str:
    if "\0" in prompt:
        raise TextError(f"{where} has a prompt with a NUL character, {prompt[:60]!r}; remove it")
    return prompt


def _read(store: Store, name: str) -> Iterator[str | None]:
    """The rows of one file."""
    where, ending = store.uri(name), _ending(name)
    with store.open(name) as file:
        if ending in _TABLES:
            yield from (_parquet if ending == ".parquet" else _arrow)(file, where)
            return
        lines = text.lines(file, where)
        if ending == ".txt":
            yield from lines
        elif ending == ".csv":
            yield from _of_rows(lines, where)
        else:
            yield from _of_records(text.records(lines, where), where)


def _of_rows(lines: Iterator[str], where: str) -> Iterator[str]:
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
        column = column or _column(list(row), where)
        yield row[column]


def _of_records(records: Iterable[dict[str, Any]], where: str) -> Iterator[str | None]:
    """What each record says; not every one needs the column.

    Raises:
        TextError: If none of them has it, or it holds anything but text.
    """
    known, others = False, list[str]()
    for number, record in enumerate(records, 1):
        if (column := field(record, "captions")) is None:
            others = others or list(record)
            yield None
            continue
        known = True
        if not isinstance(value := record[column], str | None):
            kind = type(value).__name__
            raise TextError(f"record {number} of {where} has a {column} of type {kind}, not text")
        yield value
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


def _parquet(source: pa.NativeFile, where: str) -> Iterator[str | None]:
    """The column of prompts alone, one row group in memory; of a listing all captions."""
    file = pq.ParquetFile(source)
    ours = _LISTED in (file.metadata.metadata or {})
    column = _text_column(file.schema_arrow, where, ours)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=[column], use_threads=False)
        for row in table.column(0).to_pylist():
            yield from row if isinstance(row, list) else [row]


def _arrow(source: pa.NativeFile, where: str) -> Iterator[str | None]:
    """The column of prompts, one batch in memory; of a stream as `datasets` writes, or a file."""
    head = source.read(len(_FEATHER))
    source.seek(0)
    if head == _FEATHER:
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        file = batches = pa.ipc.open_stream(source)
    column = _text_column(file.schema, where)
    for batch in batches:
        yield from batch.column(column).to_pylist()


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
