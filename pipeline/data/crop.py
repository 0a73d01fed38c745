"""An image file, brought to the size that a network takes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from threading import Lock

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from pipeline.utils.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
"""Those that are read, whatever the file's name says: no format that runs a program."""
PREPARATION = "EXIF orientation, white behind transparency, centre crop, Lanczos"
_MODES = {1: "L", 3: "RGB"}
CHANNELS = tuple(_MODES)
_HEIF_ENDINGS = (".heic", ".heif", ".hif")
_BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
}
"""How a file says which of the two it is, the first before the second."""
_PLAIN = tuple(name for name in FORMATS if name not in _BRANDS)
_PNG = b"\x89PNG\r\n\x1a\n"
_WORDS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING = (b"XML:com.adobe.xmp\0", b"xmp\0", b"exif\0", b"Raw profile type exif\0")
"""Texts of a PNG that may tell how to turn it."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what undoes it."""
_LARGE = 2**25
"""Pixels above which images are taken one by one, so that their number does not fill the memory."""
_ALONE = Lock()


class UnreadableError(Exception):
    """The bytes are no image that can be read; the message says why, always in the same words."""


@cache
def more_endings() -> tuple[str, ...]:
    """Endings of the names of images that only some installations read: HEIC."""
    return _HEIF_ENDINGS if find_spec("pillow_heif") else ()


def read_image(data: bytes, channels: int, height: int, width: int) -> Tensor:
    """Turn an image as EXIF says, cut its middle out and resize that.

    Transparent parts become white. As much is cut off as the shape needs; Lanczos resizes, up as
    well as down. Of several frames the first is taken.

    Args:
        data: Content of a file in one of `FORMATS`.
        channels: 1 for grey, 3 for colours.
        height, width: In pixels.

    Returns:
        (C, H, W) uint8.

    Raises:
        UnreadableError: If it is damaged, of another format, unreasonably large, or its values
            are no brightness.
        UserError: If this installation lacks what reads its format.
    """
    with _opened(data, channels) as whole:
        image = ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image).reshape(height, width, channels))
    return pixels.permute(2, 0, 1).contiguous()


def cut_image(data: bytes, height: int, width: int) -> Image.Image:
    """An image in colours as `read_image` has it, but of as many pixels as it has itself.

    Args:
        data: As `read_image`.
        height, width: What is cut out of its middle has their proportion.

    Raises:
        UnreadableError, UserError: As `read_image`.
    """
    with _opened(data, 3) as whole:
        wide = max(1, round(min(whole.width, whole.height * width / height)))
        high = max(1, round(min(whole.height, whole.width * height / width)))
        left, top = (whole.width - wide) // 2, (whole.height - high) // 2
        return whole.crop((left, top, left + wide, top + high))


@contextmanager
def _opened(data: bytes, channels: int) -> Iterator[Image.Image]:
    """An image upright and without transparency; raises as `read_image`."""
    formats = _formats(data)
    try:
        with (
            Image.open(io.BytesIO(_without_words(data)), formats=formats) as file,
            _ALONE if file.width * file.height > _LARGE else nullcontext(),
        ):
            _scale_key(file, data)
            yield _flat(_upright(file)).convert(_MODES[channels])
    except UnidentifiedImageError as error:  # its message has an address in memory
        raise UnreadableError(f"no {', '.join(FORMATS)} image") from error
    except (MemoryError, UnreadableError):
        raise
    except Exception as error:  # Pillow raises whatever broken bytes lead to
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnreadableError(reason) from error


def _formats(data: bytes) -> tuple[str, ...]:
    """Those to look for, which this installation can read; raises UserError if it cannot."""
    size = int.from_bytes(data[:4], "big") if data[4:8] == b"ftyp" else 0
    brands = {data[at : at + 4] for at in range(8, min(size, 256), 4)}
    kind = next((kind for kind, known in _BRANDS.items() if brands & known), None)
    if kind == "AVIF" and not features.check("avif"):
        raise UserError(
            "there is an AVIF image, which Pillow cannot read here; install pillow>=11.3 on every "
            "node"
        )
    if kind == "HEIF":
        open_heif()
    return _PLAIN if kind is None else (kind,)


@cache
def open_heif() -> None:
    """Teach Pillow to read HEIC; raises UserError if the package is missing."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise UserError(
            "there is a HEIC image, which needs pillow-heif on every node (extra `heif`): pip "
            "install pillow-heif"
        ) from error
    register_heif_opener(thumbnails=False)


def _without_words(data: bytes) -> bytes:
    """A PNG without the text in it, such as a workflow, of which Pillow takes no more than 1 MB.

    Its colour profile goes as well: nothing here uses it.
    """
    if not data.startswith(_PNG):
        return data
    return b"".join([_PNG, *(chunk for chunk in _chunks(data) if not _is_dropped(chunk))])


def _chunks(data: bytes) -> Iterator[memoryview]:
    """The parts of a PNG, each of length, name, content and checksum."""
    rest = memoryview(data)[len(_PNG) :]
    while rest:
        size = int.from_bytes(rest[:4], "big") + 12
        yield rest[:size]
        rest = rest[size:]


def _is_dropped(chunk: memoryview) -> bool:
    name = bytes(chunk[4:8])
    return name == b"iCCP" or (name in _WORDS and not bytes(chunk[8:40]).startswith(_ORIENTING))


def _scale_key(image: Image.Image, data: bytes) -> None:
    """Bring the transparent value of a PNG to the 8 bits that Pillow gives its pixels alone."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "RGB") or key is None:
        return
    bits = data[24]

    def scaled(value: int) -> int:
        return value >> 8 if bits == 16 else value * 255 // (2**bits - 1)

    image.info["transparency"] = scaled(key) if isinstance(key, int) else tuple(map(scaled, key))


def _upright(image: Image.Image) -> Image.Image:
    """As EXIF or XMP says; as it is where they are broken."""
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises whatever broken bytes lead to
        return image
    return image if turn is None else image.transpose(turn)


def _flat(image: Image.Image) -> Image.Image:
    """In 8 bits a channel, and without transparency."""
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, which Pillow would clip.

    Raises:
        UnreadableError: If floats are not from 0 to 1, or integers of 32 bits no 8 or 16 bits.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    top = 1 if image.mode == "F" else 255 if image.mode == "I" and high <= 255 else 65535
    if not 0 <= low <= high <= top:  # nor where one is no number
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise UnreadableError(
            f"{kind} (mode {image.mode}) from {low:g} to {high:g}, not from 0 to {top}"
        )
    grey = Image.fromarray((values.astype(np.float64) / (top / 255)).round().astype(np.uint8))
    if (key := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray((values != key).astype(np.uint8) * 255))
    return grey
