"""Image files of every kind become pixels of one size."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from pipeline.data.crop import UnreadableError, read_image
from tests.fixtures.image_sets import content, picture


def flat(colour: object, mode: str = "RGB", size: tuple[int, int] = (12, 12)) -> Image.Image:
    return Image.new(mode, size, colour)


def test_the_middle_is_kept_in_the_shape_asked_for():
    image = Image.new("RGB", (60, 20), "red")
    image.paste((0, 0, 255), (20, 0, 40, 20))
    pixels = read_image(content(image), 3, 20, 20)
    assert pixels.shape == (3, 20, 20) and pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.tensor([0, 0, 255])[:, None, None].expand(3, 20, 20))
    wide = read_image(content(image), 3, 10, 30)
    assert wide.shape == (3, 10, 30) and wide[0, :, 0].min() == 255


def test_a_square_is_resized_as_diffusers_does():
    image = picture(1, (64, 64))
    processor = VaeImageProcessor(vae_scale_factor=8, resample="lanczos")
    for size in (16, 96):
        theirs = processor.preprocess(image, size, size)[0]
        ours = read_image(content(image), 3, size, size).float() / 127.5 - 1
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_exif_turns_an_image():
    image = flat("black", size=(20, 10))
    image.paste((255, 255, 255), (0, 0, 10, 10))  # the left half
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise: left becomes top
    data = content(image, "JPEG", exif=exif, quality=100)
    pixels = read_image(data, 3, 20, 10)
    assert pixels[:, :8].min() > 240 and pixels[:, 12:].max() < 15


def grey(value: float, dtype: object) -> bytes:
    return content(Image.fromarray(np.full((12, 12), value, dtype)), "TIFF")


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png16(colour: int, *samples: int, key: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits and one colour, with a transparent value or without."""
    row = b"\0" + struct.pack(f">{len(samples)}H", *samples) * 12
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 12, 12, 16, colour, 0, 0, 0)),
            chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b"",
            chunk(b"IDAT", zlib.compress(row * 12)),
            chunk(b"IEND", b""),
        ]
    )


PALETTE = flat(0, "P")
PALETTE.putpalette([10, 20, 30, 200, 200, 200])
CLEAR = flat(1, "P")
CLEAR.putpalette([10, 20, 30, 200, 200, 200])


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (content(flat((10, 20, 30))), (10, 20, 30)),
        (content(flat((10, 20, 30)), "BMP"), (10, 20, 30)),
        (content(flat((10, 20, 30)), "TIFF"), (10, 20, 30)),
        (content(flat((10, 20, 30)), "WEBP", lossless=True), (10, 20, 30)),
        (content(flat(70, "L")), (70, 70, 70)),
        (content(flat(1, "1")), (255, 255, 255)),
        (content(flat((70, 255), "LA")), (70, 70, 70)),
        (content(PALETTE), (10, 20, 30)),
        (content(CLEAR, transparency=1), (255, 255, 255)),
        (content(flat((10, 20, 30, 0), "RGBA")), (255, 255, 255)),
        (content(flat((0, 0, 0, 51), "RGBA")), (204, 204, 204)),
        (content(flat((0, 255, 255, 0), "CMYK"), "JPEG", quality=100), (255, 0, 0)),
        (grey(257 * 70, np.uint16), (70, 70, 70)),
        (grey(257 * 70, ">u2"), (70, 70, 70)),
        (grey(257 * 70, np.int32), (70, 70, 70)),
        (grey(128, np.int32), (128, 128, 128)),
        (grey(0.5, np.float32), (128, 128, 128)),
        (grey(1.0, np.float32), (255, 255, 255)),
        (png16(0, 257 * 70), (70, 70, 70)),
        (png16(0, 257 * 70, key=(257 * 70,)), (255, 255, 255)),
        (png16(0, 257 * 70, key=(257 * 70 + 1,)), (70, 70, 70)),
        (png16(4, 257 * 70, 65535), (70, 70, 70)),
        (png16(4, 257 * 70, 0), (255, 255, 255)),
        (png16(2, 18000, 18001, 18002, key=(18000, 18001, 18002)), (255, 255, 255)),
        (png16(2, 18000, 18001, 18002, key=(18000, 18001, 20000)), (70, 70, 70)),
        (png16(6, 257 * 70, 257 * 70, 257 * 70, 0), (255, 255, 255)),
    ],
)
def test_every_mode_becomes_its_colours(data, colour):
    pixels = read_image(data, 3, 8, 8).float()
    expected = torch.tensor(colour)[:, None, None].float().expand(3, 8, 8)
    torch.testing.assert_close(pixels, expected, atol=2, rtol=0)


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (
            70_000,
            np.int32,
            r"integers of 32 bits \(mode I\) from 70000 to 70000, not from 0 to 65535",
        ),
        (-1, np.int32, r"integers of 32 bits \(mode I\) from -1 to -1, not from 0 to 255"),
        (200, np.float32, r"floats \(mode F\) from 200 to 200, not from 0 to 1"),
        (np.nan, np.float32, r"floats \(mode F\) from nan to nan"),
    ],
)
def test_values_that_are_no_brightness_are_refused(value, dtype, reason):
    with pytest.raises(UnreadableError, match=reason):
        read_image(grey(value, dtype), 3, 8, 8)


def test_one_channel_is_grey_and_tiny_images_grow():
    pixels = read_image(content(flat((255, 0, 0), size=(2, 1))), 1, 32, 32)
    assert pixels.shape == (1, 32, 32) and pixels.unique().tolist() == [76]


GOOD = content(picture(0, (60, 60)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no JPEG, PNG"),
        (b"<svg/>", "no JPEG, PNG"),
        (content(picture(0), "PPM"), "no JPEG, PNG"),
        (GOOD[: len(GOOD) // 2], "(?i)truncated"),
        (content(picture(0))[:-30], "."),
    ],
)
def test_what_is_damaged_or_of_another_format_is_told_in_words(data, reason):
    messages = set()
    for _ in range(2):
        with pytest.raises(UnreadableError, match=reason) as error:
            read_image(data, 3, 8, 8)
        messages.add(str(error.value))
    assert len(messages) == 1 and "0x" not in messages.pop()


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    data = content(flat("white", size=(40, 40)))
    with pytest.raises(UnreadableError, match="decompression bomb"):
        read_image(data, 3, 8, 8)
    assert len(io.BytesIO(data).getvalue()) < 1000
