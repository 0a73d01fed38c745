"""Files of images as cameras, phones and programs write them."""

import io
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pillow_heif
import pytest
import torch
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from pipeline.data import crop
from pipeline.data.crop import UnreadableError, read_image
from pipeline.data.sources.sample import is_image
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import content, picture
from tests.fixtures.listings import S3, listed, write

HALF = Image.new("RGB", (20, 20), "black")
HALF.paste((255, 255, 255), (0, 0, 10, 20))


def white_side(data: bytes) -> str:
    """Where the white half lies."""
    pixels = read_image(data, 3, 8, 8).float().mean(0)
    sides = {
        "left": pixels[:, 0],
        "right": pixels[:, -1],
        "top": pixels[0],
        "bottom": pixels[-1],
    }
    return next(name for name, side in sides.items() if side.min() > 230)


def jpeg(*entries: tuple[int, int, int, bytes], more: bytes = b"") -> bytes:
    """With these entries of EXIF, each of tag, type, count and value."""
    rows = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    folder = struct.pack("<H", len(entries)) + rows + bytes(4)
    return with_exif(b"Exif\0\0II*\0\x08\0\0\0" + folder + more)


def with_exif(body: bytes) -> bytes:
    plain = content(HALF, "JPEG", quality=95)
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_that_of_pillow(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = content(picture(2), exif=exif)
    with Image.open(io.BytesIO(data)) as file:
        theirs = read_image(content(ImageOps.exif_transpose(file)), 3, 12, 16)
    assert torch.equal(read_image(data, 3, 12, 16), theirs)


def with_text(key: str, text: str, compressed: bool) -> bytes:
    words = PngInfo()
    words.add_itxt(key, text, zip=compressed)
    words.add_text(key, text, zip=compressed)
    return content(HALF, pnginfo=words)


TURNED = (274, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    ("data", "side"),
    [
        (jpeg(TURNED), "top"),
        (
            jpeg(TURNED, (0x9204, 10, 1, struct.pack("<I", 38)), more=struct.pack("<ii", -1, 0)),
            "top",
        ),
        (jpeg(TURNED, (282, 5, 2, struct.pack("<I", 38)), more=bytes(16)), "top"),
        (jpeg(TURNED, (34853, 4, 9, struct.pack("<I", 60000))), "top"),
        (jpeg(TURNED, (34665, 4, 1, struct.pack("<I", 60000))), "top"),
        (jpeg(TURNED, (271, 7, 4, b"abcd"), (305, 3, 1, struct.pack("<HH", 7, 0))), "top"),
        (jpeg(TURNED, (33434, 0, 1, bytes(4))), "top"),
        (jpeg(TURNED, (282, 2, 1, b"x\0\0\0")), "top"),
        (jpeg(TURNED, (271, 11, 1, struct.pack("<f", 1))), "top"),
        (jpeg(TURNED, (700, 3, 2, struct.pack("<HH", 999, 999))), "top"),
        (with_text("Raw profile type exif", "\n\n\nzz", True), "left"),
        (with_text("exif", "zz", False), "left"),
        (jpeg((274, 3, 2, b"\6\0\6\0")), "top"),
        (with_exif(b"Exif\0\0"), "left"),
        (with_exif(b"Exif\0\0garbage here"), "left"),
        (with_exif(b"Exif\0\0II*\0\xff\xff\xff\x7f"), "left"),
    ],
)
def test_broken_exif_makes_no_image_unreadable(data, side):
    assert white_side(data) == side


@pytest.mark.parametrize("compressed", [True, False])
def test_a_workflow_in_a_png_does_no_harm(compressed):
    data = with_text("workflow", "x" * 2_000_000, compressed)
    assert white_side(data) == "left"
    profile = b"sRGB\0\0" + zlib.compress(bytes(2_000_000))
    part = struct.pack(">I", len(profile)) + b"iCCP" + profile
    part += struct.pack(">I", zlib.crc32(b"iCCP" + profile))
    assert white_side(data[:33] + part + data[33:]) == "left"


def test_text_that_turns_a_png_is_kept_and_a_bomb_in_it_refused():
    xmp = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert white_side(with_text("XML:com.adobe.xmp", xmp, True)) == "top"
    bomb = with_text("XML:com.adobe.xmp", "x" * 50_000_000, True)
    with pytest.raises(UnreadableError, match="too large") as error:
        read_image(bomb, 3, 8, 8)
    assert "\n" not in str(error.value) and len(bomb) < 200_000


@pytest.mark.parametrize("cut", [4, 20, 40, 60, -40])
def test_a_png_cut_short_is_damaged(cut):
    data = with_text("workflow", "x" * 100, False)
    with pytest.raises(UnreadableError):
        read_image(data[:cut], 3, 8, 8)


def test_a_gif_gives_its_first_frame():
    frames = [HALF, Image.new("RGB", (20, 20), "red")]
    data = content(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert white_side(data) == "left" and is_image("a.GIF")
    clear = Image.new("P", (12, 12), 0)
    pixels = read_image(content(clear, "GIF", transparency=0), 3, 8, 8)
    assert pixels.min() == 255


def heic(image: Image.Image, **more: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, **more)
    return file.getvalue()


@pytest.mark.parametrize("write", [heic, lambda image: content(image, "AVIF", quality=100)])
def test_heic_and_avif_are_read_whatever_they_are_called(write):
    theirs = read_image(content(picture(1)), 3, 16, 16).float()
    ours = read_image(write(picture(1)), 3, 16, 16).float()
    torch.testing.assert_close(ours, theirs, atol=16, rtol=0)
    with pytest.raises(UnreadableError):
        read_image(write(picture(1))[:-200], 3, 16, 16)
    assert is_image("a.avif") and is_image("IMG_0001.HEIC")


def test_a_heic_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UnreadableError, match="decompression bomb"):
        read_image(heic(picture(0)), 3, 8, 8)


@pytest.fixture
def without_packages(monkeypatch):
    """As where neither pillow-heif nor Pillow's AVIF is installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    cached = crop.open_heif, crop.more_endings
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


def test_an_installation_that_cannot_read_a_format_says_what_it_needs(without_packages):
    with pytest.raises(UserError, match="HEIC image, which needs pillow-heif .*extra `heif`"):
        read_image(heic(HALF), 3, 8, 8)
    with pytest.raises(UserError, match="AVIF image, .*install pillow>=11.3 on every node"):
        read_image(content(HALF, "AVIF"), 3, 8, 8)
    assert not is_image("IMG_0001.HEIC") and white_side(jpeg()) == "left"


def test_the_image_that_a_node_cannot_read_is_named(without_packages, tmp_path):
    source = write(tmp_path / "source" / "photo.jpg", heic(HALF)).parent
    found = listed(tmp_path, source, "nothing")
    pixels = found.reader(str(source), S3).pixels(found.samples(range(1)), 3, 8, 8)
    with pytest.raises(UserError, match="^encode.source: photo.jpg: .*extra `heif`"):
        list(pixels)


def test_large_images_are_taken_one_by_one(monkeypatch):
    """However many there are, memory holds one."""
    monkeypatch.setattr(crop, "_LARGE", 100)
    together, most, flat = [], [], crop._flat

    def counted(image: Image.Image) -> Image.Image:
        together.append(1)
        time.sleep(0.02)
        most.append(len(together))
        together.pop()
        return flat(image)

    monkeypatch.setattr(crop, "_flat", counted)
    for size, alone in (((20, 20), True), ((10, 10), False)):
        most.clear()
        with ThreadPoolExecutor(4) as threads:
            each = [content(picture(0, size))] * 4
            list(threads.map(lambda data: read_image(data, 3, 8, 8), each))
        assert (max(most) == 1) is alone
