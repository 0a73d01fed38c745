"""WebDataset: samples in tar files, of the members that have one key.

`key.jpg` (or another image) has its caption in `key.txt`, its label in `key.cls`, or either in
`key.json`. The key ends at the first dot of the name that no digit follows, or at the last dot:
`v1.5_2.jpg` has the key `v1.5_2`, and `1.seg.png` is the field `seg.png` of `1`, which is not read.
A compressed tar is unpacked into the cache first (`gzipped`).

Source: github.com/webdataset/webdataset, "The WebDataset Format".
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from threading import Lock

from pipeline.data import text
from pipeline.data.sources.gzipped import TarOpener, unpacked
from pipeline.data.sources.left_out import LeftOut, is_hidden, shown
from pipeline.data.sources.place import reading
from pipeline.data.sources.sample import (
    THREADS,
    Annotation,
    Sample,
    SourceError,
    Wanted,
    column,
    image_endings,
    is_image,
    read_annotation,
)
from pipeline.data.storage import BLOCK, Store
from pipeline.utils.threads import ahead

_ANNOTATIONS = {"captions": ("txt", "json"), "labels": ("cls", "json"), "nothing": ()}
"""Fields that hold what is wanted; the first that is there counts."""


def parts(names: Sequence[str]) -> list[str]:
    """The files of such a source among these: tars, or compressed ones where there are no others.

    Beside what was unpacked, people keep the archive that it came in.
    """
    plain = [name for name in names if name.lower().endswith(".tar")]
    return plain or [name for name in names if name.lower().endswith((".tar.gz", ".tgz"))]


def samples(
    store: Store, names: Sequence[str], wanted: Wanted, classes: int | None, left: LeftOut
) -> Iterator[Sample]:
    """All samples with an image, file after file.

    Raises:
        SourceError: If a file cannot be read, is cut short, or has two members of one name.
    """
    for tar in ahead(lambda name: _scan(store, name, wanted), names, THREADS):
        yield from tar.samples()
        left.extend(tar.left)


class Reader:
    """Gives the bytes of an image; many threads may ask at once."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._plain: dict[str, TarOpener] = {}

    def read(self, sample: Sample) -> bytes:
        with self._lock, reading(self._store, sample.file):
            if (tar := self._plain.get(sample.file)) is None:
                tar = self._plain[sample.file] = unpacked(self._store, sample.file)
        with reading(self._store, sample.file), tar() as file:
            file.seek(sample.at)
            data: bytes = file.read(sample.size)
        if len(data) != sample.size:
            where = self._store.uri(sample.file)
            raise SourceError(f"{where} has become shorter since it was listed")
        return data


def _scan(store: Store, name: str, wanted: Wanted) -> "_Tar":
    tar = _Tar(name, store.uri(name), wanted)
    with (
        reading(store, name),
        unpacked(store, name)() as file,
        io.BufferedReader(file, BLOCK) as blocks,
    ):
        for archive in _archives(blocks):
            for member in archive:
                tar.add(member, blocks)
    return tar


def _archives(blocks: io.BufferedReader) -> Iterator[tarfile.TarFile]:
    """The archive in a file, and those that are joined to it (by cat)."""
    block = b"first"
    while block:
        with tarfile.open(fileobj=blocks, mode="r:") as archive:
            yield archive
        blocks.seek(archive.offset)  # tarfile ends quietly at a broken header
        if blocks.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end")
        while (block := blocks.read(tarfile.BLOCKSIZE)) and not block.strip(b"\0"):
            pass
        blocks.seek(-len(block), io.SEEK_CUR)


@dataclass(frozen=True)
class _Member:
    """A file in a tar: its name, where its bytes are, and those of an annotation."""

    name: str
    at: int
    size: int
    raw: bytes = b""


class _Tar:
    """The samples of one file, and what else is in it.

    Args:
        file: Its name.
        where: Its address, for messages.
        wanted: What to find out of each image.
    """

    def __init__(self, file: str, where: str, wanted: Wanted) -> None:
        self.file, self.where, self.wanted = file, where, wanted
        self.left = LeftOut()
        self._members: dict[str, _Member] = {}
        self._fields: dict[str, dict[str, _Member]] = {}

    def add(self, member: tarfile.TarInfo, blocks: io.BufferedReader) -> None:
        """Take up a member; the bytes of an annotation are read."""
        if member.isdir():
            return
        name = _plain(member.name)
        target = self._members.get(_plain(member.linkname)) if member.islnk() else None
        if kind := "hidden" if is_hidden(PurePosixPath(name).name) else _unreadable(member, target):
            self.left.add(kind, name)
            return
        key, end = _split(name)
        fields = self._fields.setdefault(key, {})
        if end in fields:
            raise SourceError(f"{self.where} has {name} twice; write the tar anew")
        place = target or _Member(name, member.offset_data, member.size)
        if end in _ANNOTATIONS[self.wanted]:
            blocks.seek(place.at)
            place = replace(place, raw=blocks.read(place.size))
        self._members[name] = fields[end] = replace(place, name=name)

    def samples(self) -> Iterator[Sample]:
        """Those with an image, in the order of the first member of each."""
        endings = image_endings()
        for fields in self._fields.values():
            image = next((end for end in fields if f".{end}" in endings), None)
            field = next((end for end in _ANNOTATIONS[self.wanted] if end in fields), None)
            used = {image, field} if image else set()
            for member in (fields[end] for end in fields if end not in used):
                self._leave_out(member.name)
            if image:
                value = self._annotation(field, fields[field]) if field else None
                yield Sample(self.file, fields[image].at, fields[image].size, value)

    def _leave_out(self, name: str) -> None:
        if is_image(name):
            self.left.add("of other fields", name)
        else:
            self.left.add_file(name)

    def _annotation(self, end: str, member: _Member) -> Annotation:
        where = f"{member.name} in {self.where}"
        value = text.decode(member.raw, where)
        if end != "json":
            return read_annotation(value, self.wanted, where)
        content = text.record(value, where)
        found = column(content, self.wanted, where)
        return read_annotation(content[found], self.wanted, where) if found else None


def _unreadable(member: tarfile.TarInfo, target: _Member | None) -> str | None:
    """Why the bytes of a member are not in the tar as they are; None if they are."""
    if member.islnk():
        return None if target else "linked to nowhere"
    if member.issym():
        return "linked to a path"
    return None if member.isreg() and not member.issparse() else "of a special kind"


def _plain(name: str) -> str:
    """A member's name without "./", as text that can be printed."""
    return shown(str(PurePosixPath(name)))


def _split(name: str) -> tuple[str, str]:
    """Key and ending."""
    folder, slash, last = name.rpartition("/")
    pieces = last.split(".")
    own = 1
    while own < len(pieces) - 1 and pieces[own][:1].isdigit():
        own += 1
    return f"{folder}{slash}{'.'.join(pieces[:own])}", ".".join(pieces[own:]).lower()
