"""Images in files of their own.

Captions stand in `name.txt` beside `name.jpg`, or in a table as Hugging Face's imagefolder has it:
`metadata.jsonl`, `metadata.csv` or `metadata.parquet`, whose `file_name` is relative to its own
folder. Labels stand in such a table, or are the folders that the images are in.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from pipeline.data import text
from pipeline.data.sources import rows
from pipeline.data.sources.left_out import LeftOut
from pipeline.data.sources.sample import (
    THREADS,
    Annotation,
    Sample,
    SourceError,
    Wanted,
    column,
    is_image,
    read_annotation,
)
from pipeline.data.storage import Store
from pipeline.utils.threads import ahead

_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_KEY = "file_name"


def parts(names: Sequence[str]) -> list[str]:
    """The files of such a source among these."""
    return [name for name in names if is_image(name) or _is_text(name) or _is_table(name)]


def samples(
    store: Store, names: Sequence[str], wanted: Wanted, classes: int | None, left: LeftOut
) -> Iterator[Sample]:
    """All images, in the order of their names.

    Raises:
        SourceError: If their annotations cannot be read, or folders are other classes.
        TextError: The same.
    """
    images = [name for name in names if is_image(name)]
    tables = [name for name in names if _is_table(name) and wanted != "nothing"]
    table = _read_tables(store, tables, images, wanted)
    rest = [name for name in images if name not in table]
    texts = _texts(names, rest) if wanted == "captions" else {}
    for name in sorted({*names} - {*images, *tables, *texts.values()}):
        left.add_file(name)
    other = _folders(rest, classes) if wanted == "labels" else _captions(store, texts)
    found = ahead(lambda name: table[name] if name in table else other(name), images, THREADS)
    for name, value in zip(images, found, strict=True):
        yield Sample(name, annotation=value)


class Reader:
    """Gives the bytes of an image; many threads may ask at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, sample: Sample) -> bytes:
        return self._store.get(sample.file)


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")


def _is_table(name: str) -> bool:
    return PurePosixPath(name).name.lower() in _TABLES


def _read_tables(
    store: Store, names: Sequence[str], images: Sequence[str], wanted: Wanted
) -> dict[str, Annotation]:
    """Image -> what the tables say of it."""
    found: dict[str, Annotation] = {}
    known = {normpath(image): image for image in images}
    for name in names:
        where = store.uri(name)
        folder = name[: name.rfind("/") + 1]
        for row in _rows(store, name, wanted):
            image = _image(row, folder, known, where)
            if image in found:
                raise SourceError(
                    f"{where} names {image} once more, and an image has one of its {wanted}; "
                    "keep one row"
                )
            if chosen := column(row, wanted, where):
                found[image] = read_annotation(row[chosen], wanted, f"{image} in {where}")
    return found


def _rows(store: Store, name: str, wanted: Wanted) -> Iterator[Mapping[str, Any]]:
    where, end = store.uri(name), PurePosixPath(name).suffix.lower()
    if end == ".parquet":
        return rows.records(store, name, _KEY, wanted)
    lines = text.lines(io.BytesIO(store.get(name)), where)
    return text.rows(lines, where) if end == ".csv" else text.records(lines, where)


def _image(row: Mapping[str, Any], folder: str, known: Mapping[str, str], where: str) -> str:
    """The image that a row of a table is about."""
    if _KEY not in row:
        raise SourceError(f"{where} has a row without {_KEY}; it has {', '.join(row)}")
    file = str(row[_KEY])
    if (name := known.get(normpath(folder + file))) is None:
        lacks = "is not there" if is_image(file) else "has not the ending of an image"
        way_out = "write / for \\ in it" if "\\" in file else "correct the name, or drop the row"
        raise SourceError(f"{where} names the image {file}, which {lacks}; {way_out}")
    return name


def _stem(name: str) -> str:
    return name[: name.rfind(".")]


def _texts(names: Sequence[str], images: Sequence[str]) -> dict[str, str]:
    """Image -> the file with its caption."""
    found: dict[str, str] = {}
    for name in filter(_is_text, names):
        if (other := found.setdefault(_stem(name), name)) != name:
            raise SourceError(f"{other} and {name} are captions of one image; delete one")
    return {image: found[_stem(image)] for image in images if _stem(image) in found}


def _captions(store: Store, texts: Mapping[str, str]) -> Callable[[str], Annotation]:
    def caption(image: str) -> Annotation:
        if (name := texts.get(image)) is None:
            return None
        where = store.uri(name)
        return read_annotation(text.decode(store.get(name), where), "captions", where)

    return caption


_SPLITS = {"train", "val", "valid", "validation", "test"}
"""Of a set, as folders are named."""


def _folders(images: Sequence[str], classes: int | None) -> Callable[[str], Annotation]:
    """The class of an image's folder: its name if all are numbers, else its place among all."""
    folders = sorted({PurePosixPath(image).parent.name for image in images} - {""})
    if folders and _SPLITS.issuperset(folders):
        raise SourceError(
            f"the images lie in folders named {', '.join(folders)}, which are no classes; an "
            f"image's class is its own folder: {folders[0]}/CLASS/, not CLASS/{folders[0]}/"
        )
    if all(folder.isdecimal() for folder in folders):
        numbers = {folder: int(folder) for folder in folders}
    elif len(folders) == classes:
        numbers = {folder: number for number, folder in enumerate(folders)}
    else:
        raise SourceError(
            f"{len(folders)} folders of images ({', '.join(folders[:3])}, ...) for "
            f"the teacher's {classes} classes; give one folder a class, or name them 0, 1, 2, ..."
        )
    some = ", ".join(f"{folder} is {numbers[folder]}" for folder in folders[:3])
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    print(f"listing  labels are the images' folders: {some}{more}", flush=True)
    return lambda image: numbers.get(PurePosixPath(image).parent.name)
