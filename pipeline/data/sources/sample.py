"""An image of a source, and its annotation: a caption or a label."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.data.crop import more_endings

Annotation = str | int | tuple[str, ...] | None
"""A caption, several of one image, or a label; None for none."""
Wanted = Literal["captions", "labels", "nothing"]
"""What the teacher needs to know of an image."""
NAMES = {
    "captions": ("prompt", "caption", "text"),
    "labels": ("label", "class", "cls"),
    "nothing": (),
}
"""Where a record has it: under the first of these names that it has, in any case of letters."""
IMAGES = (*(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"),)
_LABEL = re.compile(r"(?P<class>\d{1,18})(\.0*)?|-1(\.0*)?|nan|")
"""A whole number, which tables with gaps write as 3.0; nothing, -1 and nan are no label."""
THREADS = 32
"""Files of a source that are looked at once: over a network most of the time is waiting."""


class SourceError(Exception):
    """What is wrong with a source; whoever opened it adds the setting that names it."""


@dataclass(frozen=True)
class Sample:
    """An image of a source.

    Attributes:
        file: The file it is in, a name in the source's store.
        at: Where in the file: its first byte in a tar, its row in a Parquet file.
        size: Its bytes in a tar.
        annotation: Its captions or label, as wanted.
    """

    file: str
    at: int = 0
    size: int = 0
    annotation: Annotation = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.file} at {self.at}" if self.at else self.file


def image_endings() -> tuple[str, ...]:
    """How the names of images end that are read here, in small letters."""
    return IMAGES + more_endings()


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image."""
    return name.lower().endswith(image_endings())


def field(names: Iterable[str], wanted: Wanted) -> str | None:
    """The name among these under which a caption or label stands."""
    found = {name.lower(): name for name in reversed(list(names))}
    return next((found[name] for name in NAMES[wanted] if name in found), None)


def column(names: Iterable[str], wanted: Wanted, where: str) -> str | None:
    """As `field`.

    Raises:
        SourceError: If two columns have this name.
    """
    every = list(names)
    found = field(every, wanted)
    same = [name for name in every if found and name.lower() == found.lower()]
    if len(same) > 1:
        raise SourceError(f"{where} has two columns, {' and '.join(same)}; rename one")
    return found


def read_annotation(value: Any, wanted: Wanted, where: str) -> Annotation:
    """Captions without the space around them, or a label; None if all are empty, null or -1.

    Raises:
        SourceError: If it is neither text, or a list of it, nor, for a label, a whole number.
    """
    if isinstance(value, list | tuple) and wanted == "captions":
        if not any(isinstance(one, list | tuple) for one in value):
            each = (read_annotation(one, wanted, where) for one in value)
            found = tuple(str(one) for one in each if one is not None)
            return found if len(found) > 1 else next(iter(found), None)
    if value is None:
        return None
    text = str(value).strip()
    if "\0" in text:
        raise SourceError(f"{where} has a NUL character in its {wanted[:-1]}; remove it")
    if wanted == "captions" and isinstance(value, str):
        return text or None
    if wanted == "labels" and (known := _LABEL.fullmatch(text)):
        return int(known["class"]) if known["class"] else None
    kind = "text" if wanted == "captions" else "a whole number"
    raise SourceError(f"{where} has the {wanted[:-1]} {text[:60]!r}, not {kind}")
