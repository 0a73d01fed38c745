"""Grids of images as one PNG, which says where each image is."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pipeline.utils.files import write_file

_GAP, _MARGIN, _FONT = 4, 16, 15
_INK, _PAPER = (60, 60, 60), (255, 255, 255)
_LAYOUT = "grid"
_MOST = 1000
"""Images in a row that are read back."""


def save_grid(
    rows: Mapping[str, Tensor],
    path: str | Path,
    scale: int | None = None,
    columns: Sequence[str] = (),
) -> None:
    """Save rows of images as a PNG: captions on the left, white gaps, sharp enlarged pixels.

    Args:
        rows: Caption -> images, (N, C, H, W) in [-1, 1] with 1 or 3 colours; values outside are
            clamped. All rows have one image shape; N may differ.
        path: The file; it appears whole or not at all.
        scale: Enlargement, a whole factor; by default images become about 56 pixels high.
        columns: A heading for each column, or none; drawn as far as its column is wide.

    Raises:
        UserError: If the file cannot be written.
    """
    height, width = next(iter(rows.values())).shape[-2:]
    scale = scale or max(1, round(56 / height))
    tile_w, tile_h = width * scale + _GAP, height * scale + _GAP
    font = ImageFont.load_default(_FONT)
    left = _MARGIN + round(max(font.getlength(caption) for caption in rows)) + 12
    top = _MARGIN + (_FONT + 8 if columns else 0)
    longest = max(len(images) for images in rows.values())
    size = (left + longest * tile_w - _GAP + _MARGIN, top + len(rows) * tile_h - _GAP + _MARGIN)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for column, heading in enumerate(columns):
        middle = left + column * tile_w + (tile_w - _GAP) // 2
        draw.text((middle, top - 8), _fitted(heading, tile_w, font), _INK, font, anchor="ms")
    for row, (caption, images) in enumerate(rows.items()):
        middle = top + row * tile_h + (tile_h - _GAP) // 2
        draw.text((left - 12, middle), caption, _INK, font, anchor="rm")
        for column, pixels in enumerate(images):
            tile = _tile(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            page.paste(tile, (left + column * tile_w, top + row * tile_h))
    layout = {
        "rows": {caption: len(images) for caption, images in rows.items()},
        "columns": list(columns),
        "size": [width, height],
        "scale": scale,
        "at": [left, top],
    }
    info, file = PngInfo(), io.BytesIO()
    info.add_text(_LAYOUT, json.dumps(layout))
    page.save(file, "PNG", pnginfo=info)
    write_file(Path(path), file.getvalue())


@dataclass(frozen=True)
class Sheet:
    """What `save_grid` was given, as images.

    Attributes:
        rows: Caption -> images at their own size.
        columns: A heading for each column, or none.
    """

    rows: dict[str, list[Image.Image]]
    columns: list[str]


def read_grid(png: bytes) -> Sheet | None:
    """The images of a file that `save_grid` made; None if it does not say where they are.

    Raises:
        OSError: If it is no picture.
    """
    with Image.open(io.BytesIO(png)) as page:
        try:
            layout = json.loads(page.info[_LAYOUT])
            (width, height), scale, (left, top) = layout["size"], layout["scale"], layout["at"]
            rows, columns = dict(layout["rows"]), [str(each) for each in layout["columns"]]
        except (KeyError, ValueError, TypeError):
            return None
        if not all(
            0 < n <= n * scale <= most for n, most in zip((width, height), page.size, strict=True)
        ):
            return None
        pixels = page.convert("RGB")
    step_x, step_y = width * scale + _GAP, height * scale + _GAP

    def tile(row: int, column: int) -> Image.Image:
        x, y = left + column * step_x, top + row * step_y
        cut = pixels.crop((x, y, x + width * scale, y + height * scale))
        return cut.resize((width, height), Image.Resampling.NEAREST)

    return Sheet(
        {
            str(caption): [tile(row, column) for column in range(min(count, _MOST))]
            for row, (caption, count) in enumerate(rows.items())
        },
        columns,
    )


def png_row(images: Tensor) -> bytes:
    """Images side by side as a PNG at their own size.

    Args:
        images: (N, C, H, W) in [-1, 1] with 1 or 3 colours; values outside are clamped.
    """
    width, height = images.shape[3], images.shape[2]
    row, file = Image.new("RGB", (len(images) * width, height)), io.BytesIO()
    for number, pixels in enumerate(images):
        row.paste(_tile(pixels), (number * width, 0))
    row.save(file, "PNG")
    return file.getvalue()


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
