"""The images beside prompts, which models start from that edit them: copies, named by content."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from pipeline.data.crop import UnreadableError, cut_image
from pipeline.data.prompt_rows import Row
from pipeline.data.sources.sample import THREADS
from pipeline.data.storage import Store
from pipeline.data.text import TextError
from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import CACHE_WAY_OUT
from pipeline.utils.threads import ahead

_FOLDER = "prompt-images"
_LARGEST = 2**27
"""Bytes of an image at most."""


@dataclass(frozen=True)
class Beside:
    """An image beside a prompt, where its file of prompts says that it is.

    Attributes:
        store: Where the file of prompts is.
        name: Of the image in it; "" for one in the file itself.
        data: Its bytes, of one in the file.
        where: Its address, for messages.
    """

    store: Store
    name: str
    data: bytes
    where: str

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UserError: If it is not there.
            UnreadableError: If it is too large.
        """
        if not self.name:
            return self.data
        with self.store.open(self.name) as file:
            if (size := file.size()) > _LARGEST:
                raise UnreadableError(f"it has {size} bytes, more than {_LARGEST}")
            return bytes(file.read())


def beside(store: Store, file: str, value: Any, where: str) -> Beside:
    """The image of a value in a column of images.

    Args:
        store: Where the file of prompts is.
        file: Its name.
        value: A file's name, from the folder of that file; or bytes, or a struct that has them.
        where: Address of the file of prompts, for messages.

    Raises:
        TextError: If it is neither, or leads out of that folder.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return Beside(store, "", value, f"an image in {where}")
    if not isinstance(value, str) or not value.strip():
        raise TextError(
            f"{where} has a prompt without an image in a column that teacher.prompt_images names; "
            "write a file's name there, or remove the row"
        )
    path = PurePosixPath(value.strip())
    if path.is_absolute() or ".." in path.parts or "://" in value or "\0" in value:
        raise TextError(
            f"{where} names the image {value[:200]!r}; name files in its own folder, from there"
        )
    name = str(PurePosixPath(file).parent / path)
    return Beside(store, name, b"", store.uri(name))


def copied(rows: Iterable[Row], cache: Path) -> Iterator[Row]:
    """The same rows with the names of copies of their images, each of which can be read.

    Args:
        rows: Their images are `Beside`.
        cache: The folder of the file of prompts that they are written to.

    Raises:
        UserError: If an image cannot be read or copied.
    """
    folder = cache / _FOLDER

    def copy(row: Row) -> Row:
        return Row(row.prompt, tuple(_copy(image, folder) for image in row.images))

    return ahead(copy, rows, THREADS)


def _copy(image: Beside, folder: Path) -> str:
    try:
        data = image.read()
        name = hashlib.sha256(data).hexdigest()
        if not (folder / name).is_file():
            cut_image(data, 1, 1)
            _write(folder / name, data)
    except (UnreadableError, UserError) as error:
        raise UserError(f"teacher.prompt_images: cannot read {image.where} ({error})") from error
    return name


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with scratch.folder_beside(file) as fresh:
            (fresh / file.name).write_bytes(data)
            (fresh / file.name).replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; {CACHE_WAY_OUT}") from error


def image_file(prompts: Path, name: str) -> Path:
    """Where an image lies, by the name that a local file of prompts has for it: its SHA-256."""
    return prompts.parent / _FOLDER / name


def read_beside(file: Path, height: int, width: int) -> Image.Image:
    """An image beside a prompt, in colours; its middle, in the proportion of height and width.

    Raises:
        UserError: If it is gone or cannot be read.
    """
    try:
        return cut_image(file.read_bytes(), height, width)
    except (OSError, UnreadableError) as error:
        raise UserError(
            f"teacher.prompt_images: cannot read {file} ({error}); remove it, and run again"
        ) from error
