"""Pictures for the page: rows of images, cut so that they fit a phone as well."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from pipeline.utils.film import moving
from pipeline.utils.image_grid import Sheet, open_png, read_grid

ACROSS, FEW = 10, 4
"""Images side by side in a block, and of a prompt."""
_LEAST, _MOST = 56, 160
"""Pixels of an image's longer side on the page's pictures."""
_PLAIN_WIDTH = 1600
_MILLISECONDS = 250
"""Of a frame: of a long video there are few."""


@dataclass(frozen=True)
class Strip:
    """One row of images as one picture.

    Attributes:
        caption: What the row is.
        alt: The same for those who do not see it.
        source: A data URI.
        width, height: Of the picture, in pixels.
    """

    caption: str
    alt: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Block:
    """Rows that belong together column by column.

    Attributes:
        strips: The rows.
        headings: One for each column, or none.
    """

    strips: list[Strip]
    headings: list[str]


@dataclass(frozen=True)
class Figure:
    """A picture of the run.

    Attributes:
        blocks: Its images; of a file that does not say where they are, one strip.
        plain: Whether it is such a file.
    """

    blocks: list[Block]
    plain: bool = False


def figure(png: bytes, alt: str, across: int = ACROSS) -> Figure:
    """A file of `save_grid`, or any other picture, for the page.

    Args:
        png: The file.
        alt: What it shows.
        across: Images side by side in a block.

    Raises:
        OSError: If it is no picture.
    """
    try:
        sheet = read_grid(png)
        if sheet is None or not any(sheet.rows.values()):
            return Figure([Block([_plain(png, alt)], [])], plain=True)
    except Exception as error:  # the decoder raises all kinds
        raise OSError(str(error)) from error
    longest = max(len(images) for images in sheet.rows.values())
    return Figure([_block(sheet, first, alt, across) for first in range(0, longest, across)])


def _block(sheet: Sheet, first: int, alt: str, across: int) -> Block:
    strips = []
    for caption, images in sheet.rows.items():
        if part := images[first : first + across]:
            last = first + len(part)
            words = f"{alt}: {caption or 'images'}, columns {first + 1} to {last}"
            strips.append(_strip(part, caption, words, sheet.frames, across))
    return Block(strips, sheet.columns[first : first + across])


def _strip(images: list[Image.Image], caption: str, alt: str, frames: int, across: int) -> Strip:
    """Images side by side; videos, which have so many frames, move."""
    rows = [
        _row([_frame(image, number, frames) for image in images], across)
        for number in range(frames)
    ]
    photo = images[0].width > 32
    source = _encode(rows[0], photo) if frames == 1 else _uri(moving(rows, _MILLISECONDS), "webp")
    return Strip(caption, alt, source, rows[0].width, rows[0].height)


def _frame(strip: Image.Image, number: int, frames: int) -> Image.Image:
    """One of those that are side by side in a strip."""
    width = strip.width // frames
    return strip.crop((number * width, 0, (number + 1) * width, strip.height))


def _row(images: list[Image.Image], across: int) -> Image.Image:
    """Images side by side, with clear space between them, as wide as a full row."""
    width, height = _size(images[0])
    gap = max(2, width // 14)
    grey = all(image.convert("L").convert("RGB").tobytes() == image.tobytes() for image in images)
    row = Image.new("LA" if grey else "RGBA", (across * (width + gap) - gap, height))
    for number, image in enumerate(images):
        enlarged = width >= image.width
        how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        tile = image.resize((width, height), how).convert(row.mode)
        row.paste(tile, (number * (width + gap), 0))
    return row


def _size(image: Image.Image) -> tuple[int, int]:
    """Width and height on the page: a whole number of times its own, or less."""
    longest = max(image.size)
    if longest > _MOST:
        return (max(1, image.width * _MOST // longest), max(1, image.height * _MOST // longest))
    factor = -(-_LEAST // longest)
    return image.width * factor, image.height * factor


def _plain(png: bytes, alt: str) -> Strip:
    """A whole picture, no wider than the page needs."""
    with open_png(png) as picture:
        page = picture.convert("RGB")
    if page.width > _PLAIN_WIDTH:
        page.thumbnail((_PLAIN_WIDTH, _PLAIN_WIDTH * 4))
    return Strip("", alt, _encode(page, page.width * page.height > 2**21), page.width, page.height)


def _encode(picture: Image.Image, photo: bool) -> str:
    file, kind = io.BytesIO(), "webp" if photo else "png"
    if photo:
        picture.convert("RGBA").save(file, "WEBP", quality=88)
    else:
        picture.save(file, "PNG", optimize=True)
    return _uri(file.getvalue(), kind)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
