"""Images in a folder, in Parquet files or in tars, here or in a bucket: listed and read there."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.config import S3Config
from pipeline.data.crop import UnreadableError, read_image
from pipeline.data.schema import from_texts, texts
from pipeline.data.sources import files, rows, tars
from pipeline.data.sources.left_out import LeftOut, is_hidden
from pipeline.data.sources.place import open_place
from pipeline.data.sources.sample import Annotation, Sample, SourceError, Wanted, is_image
from pipeline.data.storage import Store
from pipeline.data.text import TextError
from pipeline.utils.errors import UserError
from pipeline.utils.progress import Progress
from pipeline.utils.threads import ahead

THREADS = 8
"""Images that are read, decoded and resized at once."""
UNANNOTATED = b"unannotated"
"""Where the metadata of a table says how many images it leaves out."""
_KINDS = {"image": files, "Parquet": rows, "tar": tars}
_SKIPPING = {"encode.source": "encode.unannotated"}
"""Setting of a source -> the one that leaves out images without caption or label."""


class Source:
    """Images that are somewhere; nothing but the names of files is looked at yet.

    Args:
        path: A folder, a .parquet or a .tar file, here or in a bucket.
        s3: Where S3 is.
        setting: The setting that names it, for messages.

    Attributes:
        path: As given.
        kind: What the images are in: "image", "Parquet" or "tar".

    Raises:
        UserError: If there are none.
    """

    def __init__(self, path: str, s3: S3Config, setting: str) -> None:
        self.path, self._s3, self._setting = path, s3, setting
        self._left = LeftOut()
        place = open_place(path, s3, setting)
        self._store = place.store
        found = place.versions()
        with _named(setting):
            if place.file and not found:
                raise SourceError(f"there is no {path}")
            marks = found if place.file else _sort_out(found, self._left)
            self.kind = _kind(self._store, list(marks), self._left)
        self._marks = {name: marks[name] for name in _KINDS[self.kind].parts(list(marks))}
        for name in marks:
            if name not in self._marks:
                self._left.add_file(name)

    def fingerprint(self, wanted: Wanted, classes: int | None) -> str:
        """SHA-256 of the files' names and versions, and of what is asked of them."""
        content = [self.kind, wanted, classes, self._marks]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def table(self, wanted: Wanted, classes: int | None, skip: bool = False) -> pa.Table:
        """All images, a row each: `file`, `at`, `size`, and `caption` or `label`.

        What is not read is counted in a line at the end, and in the metadata the images left out.

        Args:
            wanted: What to find out of each image.
            classes: Number of class labels, where labels are wanted.
            skip: Leave out the images without it.

        Raises:
            UserError: If there are none, something cannot be read or has no annotation.
        """
        names, left = list(self._marks), LeftOut()
        left.extend(self._left)
        units = [name for name in names if self.kind != "image" or is_image(name)]
        with _named(self._setting), Progress(len(units), "listing", "files") as bar:
            found = _shown(
                _KINDS[self.kind].samples(self._store, names, wanted, classes, left), bar
            )
            table = _table(_annotated(found, wanted, left) if skip else found, wanted)
            self._check(table, wanted, classes, left)
        left.tell()
        return table.replace_schema_metadata({UNANNOTATED: str(left.count(_lacking(wanted)))})

    def _check(self, table: pa.Table, wanted: Wanted, classes: int | None, left: LeftOut) -> None:
        """Every image is there for something."""
        if not len(table):
            where = self._store.uri("")
            raise SourceError(f"the files in {where} hold no images{_beside(left)}")
        if wanted == "nothing":
            return
        annotations = table[wanted.removesuffix("s")]
        if annotations.null_count:
            first = table["file"][annotations.is_null().to_pylist().index(True)]
            way_out = ""
            if setting := _SKIPPING.get(self._setting):
                way_out = f": add them, or leave these images out ({setting}: skip)"
            raise SourceError(
                f"{annotations.null_count} of {len(table)} images have no {wanted[:-1]}, the first "
                f"in {self._store.uri(str(first))}; the teacher needs one of each{way_out}"
            )
        if wanted == "labels" and classes is not None:
            highest = max(annotations.to_pylist())
            if highest >= classes:
                raise SourceError(
                    f"label {highest}, but the teacher has {classes} classes, 0 to {classes - 1}"
                )

    def reader(self) -> "Reader":
        """Gives its images."""
        return Reader(self.path, self.kind, self._s3, self._setting)


class Reader:
    """Gives the images of a source; many threads may ask at once.

    Args:
        path, s3, setting: As of a `Source`.
        kind: What the images are in.
    """

    def __init__(self, path: str, kind: str, s3: S3Config, setting: str) -> None:
        store = open_place(path, s3, setting).store
        self._bytes, self._setting = _KINDS[kind].Reader(store), setting

    def read(self, sample: Sample) -> bytes:
        """All bytes of an image's file; raises UserError if the source refuses."""
        with _named(self._setting):
            return self._bytes.read(sample)

    def pixels(
        self, samples: Iterable[Sample], channels: int, height: int, width: int
    ) -> Iterator[Tensor | UnreadableError]:
        """Images in one size, (C, H, W) uint8, in the order of the samples, or why there is none.

        Threads work ahead. Raises as `read`.
        """

        def prepared(sample: Sample) -> Tensor | UnreadableError:
            data = self.read(sample)
            try:
                return read_image(data, channels, height, width)
            except UnreadableError as error:
                return error
            except UserError as error:
                raise UserError(f"{self._setting}: {sample.name}: {error}") from error

        return ahead(prepared, samples, THREADS)


def to_samples(table: pa.Table, ids: Sequence[int]) -> list[Sample]:
    """The images in these rows of a table."""
    found = table.take(pa.array(ids, pa.int64())).columns
    columns = (from_texts(column) for column in found)
    return [Sample(*row) for row in zip(*columns, strict=True)]


def scaled(pixels: Tensor) -> Tensor:
    """Values of 0 to 255 as floats in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


@contextmanager
def _named(setting: str) -> Iterator[None]:
    try:
        yield
    except (SourceError, TextError) as error:
        raise UserError(f"{setting}: {error}") from error


def _sort_out(found: dict[str, str | None], left: LeftOut) -> dict[str, str]:
    """The files that may be data."""
    marks = {}
    for name, mark in found.items():
        if mark is None:
            left.add("linked to nothing new", name)
        elif not _is_utf8(name):
            left.add("named not in UTF-8", name)
        elif is_hidden(name):
            left.add("hidden", name)
        else:
            marks[name] = mark
    return marks


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _kind(source: Store, names: Sequence[str], left: LeftOut) -> str:
    """What the images are in; Parquet without images may lie beside images, as their metadata."""
    images, archives = any(map(is_image, names)), tars.parts(names)
    if any(name.lower().endswith(".tar") for name in archives):
        return "tar"
    if (tables := rows.parts(names)) and not (images and not rows.has_images(source, tables[0])):
        return "Parquet"
    if images:
        return "image"
    if archives:
        return "tar"
    for name in names:
        left.add_file(name)
    found = _beside(left) or ": nothing is there"
    raise SourceError(
        f"no images in {source.uri('')}{found}; give a folder of images, of Parquet files or of "
        "WebDataset's .tar files"
    )


def _beside(left: LeftOut) -> str:
    return f", but {left}" if str(left) else ""


def _annotated(samples: Iterable[Sample], wanted: Wanted, left: LeftOut) -> Iterator[Sample]:
    """Those with an annotation, where one is wanted."""
    for sample in samples:
        if sample.annotation is None and wanted != "nothing":
            left.add(_lacking(wanted), sample.name)
        else:
            yield sample


def _lacking(wanted: Wanted) -> str:
    return f"without a {wanted[:-1]}"


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
    annotations: list[Annotation] = []
    for sample in samples:
        file.append(sample.file)
        at.append(sample.at)
        size.append(sample.size)
        annotations.append(sample.annotation)
    columns: dict[str, Any] = {"file": pa.array(file, pa.string()), "at": at, "size": size}
    if wanted != "nothing":
        column = pa.array(annotations, pa.int64()) if wanted == "labels" else texts(annotations)
        columns[wanted.removesuffix("s")] = column
    return pa.table(columns)
