"""WebDataset: samples in tar files, each a run of members whose names differ after the first dot.

`key.jpg` (or another image) has its caption in `key.txt`, its label in `key.cls`, or either in
`key.json`.

Source: github.com/webdataset/webdataset, "The WebDataset Format".
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby

from pipeline.data.sources.files import record
from pipeline.data.sources.sample import (
    IMAGES,
    THREADS,
    Sample,
    SourceError,
    Wanted,
    field,
    read_annotation,
)
from pipeline.data.storage import Store
from pipeline.utils.threads import ahead

BLOCK = 2**20
"""Bytes read at once of a tar that is listed: over a network, fewer and larger requests."""
_PLAIN = {"captions": "txt", "labels": "cls"}


def parts(names: Sequence[str]) -> list[str]:
    """The files of such a source among these."""
    return [name for name in names if name.endswith(".tar")]


def samples(
    store: Store, names: Sequence[str], wanted: Wanted, classes: int | None
) -> Iterator[Sample]:
    """All samples with an image, file after file.

    Raises:
        SourceError: If a file cannot be read, or is cut short.
    """
    for found in ahead(lambda name: _scan(store, name, wanted), names, THREADS):
        yield from found


class Reader:
    """Gives the bytes of an image; many threads may ask at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, sample: Sample) -> bytes:
        with self._store.open(sample.file) as file:
            file.seek(sample.at)
            data: bytes = file.read(sample.size)
        if len(data) != sample.size:
            where = self._store.uri(sample.file)
            raise SourceError(f"{where} has become shorter since it was listed")
        return data


def _scan(store: Store, name: str, wanted: Wanted) -> list[Sample]:
    where, found = store.uri(name), []
    try:
        with (
            store.open(name) as file,
            io.BufferedReader(file, BLOCK) as blocks,
            tarfile.open(fileobj=blocks, mode="r:") as archive,
        ):
            members = (member for member in archive if member.isfile())
            for _, group in groupby(members, lambda member: _split(member.name)[0]):
                sample = _sample(archive, list(group), name, wanted, where)
                found += [sample] if sample else []
            blocks.seek(archive.offset)  # tarfile ends quietly at a broken header
            if blocks.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise SourceError(f"cannot read {where} ({error}); fetch the file again") from error
    return found


def _sample(
    archive: tarfile.TarFile, members: list[tarfile.TarInfo], name: str, wanted: Wanted, where: str
) -> Sample | None:
    """The sample of these members, if one of them is an image."""
    parts = {_split(member.name)[1]: member for member in members}
    image = next((part for end, part in parts.items() if f".{end}" in IMAGES), None)
    if image is None:
        return None
    value: str | int | None = None
    if (part := parts.get(_PLAIN.get(wanted, ""))) is not None:
        value = read_annotation(_text(archive, part), wanted, f"{part.name} in {where}")
    elif wanted != "nothing" and (part := parts.get("json")) is not None:
        place = f"{part.name} in {where}"
        content = record(_text(archive, part), place)
        column = field(content, wanted)
        value = read_annotation(content[column], wanted, place) if column else None
    return Sample(name, image.offset_data, image.size, value)


def _split(name: str) -> tuple[str, str]:
    """Key and ending, which begins after the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    key, _, end = last.partition(".")
    return f"{folder}{slash}{key}", end.lower()


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)
    assert content is not None, "it is a file"
    return content.read().decode()
