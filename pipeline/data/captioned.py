"""A whole source of images with captions in memory: for a small model, or a judge, to learn."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config import S3Config
from pipeline.data import text
from pipeline.data.crop import UnreadableError
from pipeline.data.sources.source import Source, to_samples
from pipeline.data.text import TextError
from pipeline.utils.errors import UserError
from pipeline.utils.progress import Progress

LARGEST = 2**33
"""Bytes of the images of one source: beyond, they do not belong in memory."""
_TABLE = "metadata.csv"
SOURCES = "sources.json"
"""File beside a teacher's networks: what `image_sources` found of the images it learnt from."""
_OF_SOURCE = ("set", "licence", "author", "url")


@dataclass(frozen=True)
class CaptionedImages:
    """Images and what their captions say.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        captions: Of each image, one or several.
        files: Their names in the source.
    """

    pixels: Tensor
    captions: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 of all of it, in hex."""
        texts = json.dumps([list(self.pixels.shape), self.captions, self.files])
        found = hashlib.sha256(texts.encode())
        found.update(self.pixels.contiguous().numpy().data)
        return found.hexdigest()


def load_captioned(path: str, size: int, s3: S3Config, setting: str) -> CaptionedImages:
    """All images of a source that can be read, at a square size.

    Args:
        path: As of `encode.source`.
        size: Height and width, in pixels.
        s3: Where S3 is.
        setting: The setting that names it, for messages.

    Raises:
        UserError: If there are none or too many, or one has no caption.
    """
    source = Source(path, s3, setting)
    table = source.table("captions", None)
    if len(table) * 3 * size * size > LARGEST:
        raise UserError(
            f"{setting}: {path} has {len(table)} images, which at {size} pixels do not fit into "
            f"{LARGEST >> 30} GiB of memory; give fewer, or a smaller data.size"
        )
    samples = to_samples(table, range(len(table)))
    found = source.reader().pixels(samples, 3, size, size)
    sound = list[tuple[Tensor, tuple[str, ...], str]]()
    with Progress(len(samples), "images", "images") as bar:
        for sample, image in zip(samples, found, strict=True):
            bar.update(1)
            if not isinstance(image, UnreadableError):
                said = sample.annotation
                captions = said if isinstance(said, tuple) else (str(said),)
                sound.append((image, captions, sample.file))
    if left := len(samples) - len(sound):
        print(f"images   {left} of {len(samples)} cannot be read and are left out")
    if not sound:
        raise UserError(f"{setting}: no image of {path} can be read; mend the source")
    pixels, texts, files = zip(*sound, strict=True)
    return CaptionedImages(torch.stack(pixels), texts, files)


def load_columns(
    path: str, files: Sequence[str], columns: Sequence[str], setting: str
) -> Mapping[str, list[str]]:
    """What the `metadata.csv` of a local folder says of these images, column by column.

    Raises:
        UserError: If it is not there, is no table, or lacks a column or an image.
    """
    table = Path(path) / _TABLE
    try:
        rows = {row["file_name"]: row for row in _rows(table)}
        return {column: [rows[name][column] for name in files] for column in columns}
    except OSError as error:
        raise UserError(
            f"{setting}: cannot read {table} ({error.strerror}), whose columns evaluate.judged "
            "names; set that to {} to judge nothing"
        ) from error
    except TextError as error:
        raise UserError(f"{setting}: {error}") from error
    except KeyError as error:
        raise UserError(
            f"{setting}: {table} has no column or image {error}, which evaluate.judged needs; "
            "correct it, or set that to {} to judge nothing"
        ) from error


def image_sources(path: str) -> list[dict[str, str]]:
    """Set, licence, author and url that the `metadata.csv` of a local folder names, each once."""
    try:
        rows = _rows(Path(path) / _TABLE)
        named = {tuple(row[column] for column in _OF_SOURCE) for row in rows}
    except (OSError, KeyError, TextError):  # a folder need not say
        return []
    return [dict(zip(_OF_SOURCE, each, strict=True)) for each in sorted(named)]


def _rows(table: Path) -> Iterator[dict[str, str]]:
    with table.open("rb") as file:
        yield from text.rows(text.lines(file, str(table)), str(table))
