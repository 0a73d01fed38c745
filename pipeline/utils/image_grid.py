"""Grids of images as one PNG, which says where each image is."""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from torch import Tensor

from pipeline.utils.files import write_file
from pipeline.utils.film import moving, strips

_GAP, _MARGIN, _FONT, _LINE = 4, 16, 15, 18
_INK, _PAPER = (60, 60, 60), (255, 255, 255)
_LAYOUT = "grid"
_CAPTION = 28
"""Characters of a caption in a line."""
_MOST = 10_000
"""Images that are read back at most."""
_MILLISECONDS = 62
"""Of a frame: 16 a second, as Wan's."""
_PIXELS = 2**26
"""Of a picture that is read back, at most."""


class _Stored(BaseModel):
    """What a file of `save_grid` says of its images."""

    rows: dict[str, NonNegativeInt]
    columns: list[str]
    size: tuple[PositiveInt, PositiveInt]
    scale: PositiveInt
    frames: PositiveInt = 1
    at: tuple[NonNegativeInt, NonNegativeInt]


def save_grid(
    rows: Mapping[str, Tensor],
    path: str | Path,
    scale: int | None = None,
    columns: Sequence[str] = (),
) -> None:
    """Save rows of images as a PNG: captions on the left, white gaps, sharp enlarged pixels.

    A caption is drawn as far as its row is high, and stored whole.

    Args:
        rows: Caption -> images, (N, C, H, W), or videos, (N, C, F, H, W), in [-1, 1] with 1 or 3
            colours; values outside are clamped. All rows have one shape; N may differ.
        path: The file; it appears whole or not at all.
        scale: Enlargement, a whole factor; by default images become about 56 pixels high.
        columns: A heading for each column, or none; drawn as far as its column is wide.

    Raises:
        UserError: If the file cannot be written.
    """
    shown = {caption: strips(samples) for caption, samples in rows.items()}
    rows, frames = {k: v for k, (v, _) in shown.items()}, next(iter(shown.values()))[1]
    height, width = next(iter(rows.values())).shape[-2:]
    font, scale = ImageFont.load_default(_FONT), scale or max(1, round(56 / height))
    captions = [_lines(caption, height * scale) for caption in rows]
    longest = max(font.getlength(line) for lines in captions for line in lines)
    left = _MARGIN + round(longest) + 12
    top = _MARGIN + (_FONT + 8 if columns else 0)
    layout = _Layout(left, top, width, height, scale)
    end_x, end_y = layout.corner(len(rows), max(len(images) for images in rows.values()))
    page = Image.new("RGB", (end_x - _GAP + _MARGIN, end_y - _GAP + _MARGIN), _PAPER)
    _draw_text(page, layout, captions, columns)
    for row, images in enumerate(rows.values()):
        for column, pixels in enumerate(images):
            tile = _tile(pixels).resize(layout.shown, Image.Resampling.NEAREST)
            page.paste(tile, layout.corner(row, column))
    stored = {
        "rows": {caption: len(images) for caption, images in rows.items()},
        "columns": list(columns),
        "size": [width, height],
        "scale": layout.scale,
        "frames": frames,
        "at": [left, top],
    }
    info, file = PngInfo(), io.BytesIO()
    info.add_text(_LAYOUT, json.dumps(stored))
    page.save(file, "PNG", pnginfo=info)
    write_file(Path(path), file.getvalue())


@dataclass(frozen=True)
class _Layout:
    """Where the images of a page are, in pixels.

    Attributes:
        left, top: Corner of the first image.
        width, height: Of every image, at its own size.
        scale: Enlargement.
    """

    left: int
    top: int
    width: int
    height: int
    scale: int

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of an enlarged image."""
        return self.width * self.scale, self.height * self.scale

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of an image."""
        width, height = self.shown
        return self.left + column * (width + _GAP), self.top + row * (height + _GAP)


def _draw_text(
    page: Image.Image, layout: _Layout, captions: Sequence[list[str]], columns: Sequence[str]
) -> None:
    """Captions beside the rows, headings above the columns."""
    draw, font, (width, height) = ImageDraw.Draw(page), ImageFont.load_default(_FONT), layout.shown
    for column, heading in enumerate(columns):
        x, y = layout.corner(0, column)
        words = _fitted(heading, width + _GAP, font)
        draw.text((x + width // 2, y - 8), words, _INK, font, anchor="ms")
    for row, lines in enumerate(captions):
        x, y = layout.corner(row, 0)
        first = y + height // 2 - (len(lines) - 1) * _LINE // 2
        for number, line in enumerate(lines):
            draw.text((x - 12, first + number * _LINE), line, _INK, font, anchor="rm")


def _lines(caption: str, height: int) -> list[str]:
    """As much of a caption as fits beside a row, in pixels; a line at least."""
    most = max(1, height // _LINE)
    return textwrap.wrap(caption, _CAPTION, max_lines=most, placeholder=" …") or [""]


@dataclass(frozen=True)
class Sheet:
    """What `save_grid` was given, as images.

    Attributes:
        rows: Caption -> images at their own size.
        columns: A heading for each column, or none.
        frames: Side by side in each image, of a video; else 1.
    """

    rows: dict[str, list[Image.Image]]
    columns: list[str]
    frames: int = 1


def read_grid(png: bytes) -> Sheet | None:
    """The images of a file that `save_grid` made; None if it does not say where they are.

    Raises:
        OSError: As `open_png`, or if a part of it is damaged.
    """
    with open_png(png) as page:
        try:
            stored = _Stored.model_validate_json(page.info.get(_LAYOUT) or "")
        except ValueError:
            return None
        (left, top), (width, height) = stored.at, stored.size
        layout = _Layout(left, top, width, height, stored.scale)
        counts = stored.rows.values()
        end_x, end_y = layout.corner(len(counts), max(counts, default=0))
        fits = end_x - _GAP <= page.width and end_y - _GAP <= page.height
        if not fits or sum(counts) * stored.frames > _MOST or width % stored.frames:
            return None
        pixels = page.convert("RGB")

    def tile(row: int, column: int) -> Image.Image:
        x, y = layout.corner(row, column)
        cut = pixels.crop((x, y, x + layout.shown[0], y + layout.shown[1]))
        return cut.resize((width, height), Image.Resampling.NEAREST)

    return Sheet(
        {
            caption: [tile(row, column) for column in range(count)]
            for row, (caption, count) in enumerate(stored.rows.items())
        },
        stored.columns,
        stored.frames,
    )


def open_png(png: bytes) -> Image.Image:
    """A picture of which no pixel is read yet.

    Raises:
        OSError: If it is none, or has too many pixels.
    """
    try:
        page = Image.open(io.BytesIO(png), formats=["PNG"])
    except (ValueError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
    if page.width * page.height > _PIXELS:
        raise OSError(f"{page.width} x {page.height} are more than {_PIXELS:,} pixels")
    return page


def row_of(samples: Tensor) -> tuple[bytes, str]:
    """Images side by side as a PNG, or videos as a WebP, at their own size; and which it is.

    Args:
        samples: As a row of `save_grid`.

    Returns:
        The file, and its media type.
    """
    if samples.ndim == 5:
        pages = [_row(frame) for frame in samples.unbind(2)]
        return moving(pages, _MILLISECONDS), "image/webp"
    file = io.BytesIO()
    _row(samples).save(file, "PNG")
    return file.getvalue(), "image/png"


def _row(images: Tensor) -> Image.Image:
    width, height = images.shape[3], images.shape[2]
    row = Image.new("RGB", (len(images) * width, height))
    for number, pixels in enumerate(images):
        row.paste(_tile(pixels), (number * width, 0))
    return row


def _fitted(text: str, width: int, font: Any) -> str:
    """As much of a text as fits, in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _tile(pixels: Tensor) -> Image.Image:
    """One image, (C, H, W) in [-1, 1], at its own size."""
    levels = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
