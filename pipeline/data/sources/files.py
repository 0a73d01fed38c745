"""Images in files of their own.

Captions stand in `name.txt` beside `name.jpg`, or in a table as Hugging Face's imagefolder has it:
`metadata.jsonl` or `metadata.csv`, whose `file_name` is relative to its own folder. Labels stand in
such a table, or are the folders that the images are in.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.data.sources.sample import (
    THREADS,
    Sample,
    SourceError,
    Wanted,
    field,
    is_image,
    read_annotation,
)
from pipeline.data.storage import Store
from pipeline.utils.threads import ahead

_TABLES = ("metadata.jsonl", "metadata.csv")
_Said = str | int | None


def parts(names: Sequence[str]) -> list[str]:
    """The files of such a source among these."""
    return [
        name
        for name in names
        if is_image(name) or name.endswith(".txt") or PurePosixPath(name).name in _TABLES
    ]


def samples(
    store: Store, names: Sequence[str], wanted: Wanted, classes: int | None
) -> Iterator[Sample]:
    """All images, in the order of their names.

    Raises:
        SourceError: If their annotations cannot be read, or folders are other classes.
    """
    images = [name for name in names if is_image(name)]
    if wanted == "nothing":
        yield from map(Sample, images)
        return
    table = _tables(store, names, wanted)
    if missing := sorted(table.keys() - set(images)):
        raise SourceError(f"a metadata file names {missing[0]}, which is not there")
    rest = [name for name in images if name not in table]
    other = _texts(store, set(names)) if wanted == "captions" else _folders(rest, classes)
    found = ahead(lambda name: table[name] if name in table else other(name), images, THREADS)
    for name, value in zip(images, found, strict=True):
        yield Sample(name, annotation=value)


class Reader:
    """Gives the bytes of an image; many threads may ask at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, sample: Sample) -> bytes:
        return self._store.get(sample.file)


def _tables(store: Store, names: Sequence[str], wanted: Wanted) -> dict[str, _Said]:
    """Image -> what the tables say of it."""
    found: dict[str, _Said] = {}
    for name in names:
        path, where = PurePosixPath(name), store.uri(name)
        if path.name not in _TABLES:
            continue
        for row in _rows(_text(store, name), path.suffix, where):
            if "file_name" not in row:
                raise SourceError(f"{where} has a row without file_name")
            column = field(row, wanted)
            value = read_annotation(row[column], wanted, where) if column else None
            found[str(path.parent / str(row["file_name"]))] = value
    return found


def _rows(text: str, suffix: str, where: str) -> Iterator[dict[str, Any]]:
    if suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield record(line, f"line {number} of {where}")


def record(text: str, where: str) -> dict[str, Any]:
    """A JSON object; raises SourceError if it is none."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise SourceError(f"{where} is no JSON object ({error})") from error


def _texts(store: Store, names: set[str]) -> Callable[[str], _Said]:
    def caption(image: str) -> _Said:
        name = str(PurePosixPath(image).with_suffix(".txt"))
        return _text(store, name).strip() if name in names else None

    return caption


def _text(store: Store, name: str) -> str:
    try:
        return store.get(name).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{store.uri(name)} is not UTF-8 ({error})") from error


def _folders(images: Sequence[str], classes: int | None) -> Callable[[str], _Said]:
    """The class of an image's folder: its name if all are numbers, else its place among all."""
    folders = sorted({PurePosixPath(image).parent.name for image in images} - {""})
    if all(folder.isdecimal() for folder in folders):
        numbers = {folder: int(folder) for folder in folders}
    elif len(folders) == classes:
        numbers = {folder: number for number, folder in enumerate(folders)}
    else:
        raise SourceError(
            f"{len(folders)} folders of images ({', '.join(folders[:3])}, ...) for "
            f"the teacher's {classes} classes; give one folder a class, or name them 0, 1, 2, ..."
        )
    return lambda image: numbers.get(PurePosixPath(image).parent.name)
