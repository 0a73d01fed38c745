"""An image file, brought to the size that a network takes."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Those that are read, whatever the file's name says: no format that runs a program."""
PREPARATION = "EXIF orientation, white behind transparency, centre crop, Lanczos"
_MODES = {1: "L", 3: "RGB"}
CHANNELS = tuple(_MODES)


class UnreadableError(Exception):
    """The bytes are no image that can be read; the message says why, always in the same words."""


def read_image(data: bytes, channels: int, height: int, width: int) -> Tensor:
    """Turn an image as EXIF says, cut its middle out and resize that.

    Transparent parts become white. As much is cut off as the shape needs; Lanczos resizes, up as
    well as down.

    Args:
        data: Content of a file in one of `FORMATS`.
        channels: 1 for grey, 3 for colours.
        height, width: In pixels.

    Returns:
        (C, H, W) uint8.

    Raises:
        UnreadableError: If it is damaged, of another format, or unreasonably large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            image = _flat(ImageOps.exif_transpose(file)).convert(_MODES[channels])
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    except UnidentifiedImageError as error:  # its message has an address in memory
        raise UnreadableError(f"no {', '.join(FORMATS)} image") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever broken bytes lead to
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnreadableError(reason) from error
    pixels = torch.from_numpy(np.array(image).reshape(height, width, channels))
    return pixels.permute(2, 0, 1).contiguous()


def _flat(image: Image.Image) -> Image.Image:
    """In 8 bits a channel, and without transparency."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        values = np.asarray(image, dtype=np.float32) / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
