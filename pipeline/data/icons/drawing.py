"""Icons drawn with what a caption says of them: colour behind, size, mirrored or not."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from pipeline.data.icons.package import IconSet
from pipeline.utils.errors import UserError

BACKGROUNDS = {
    "white": (255, 255, 255),
    "yellow": (255, 220, 90),
    "blue": (120, 180, 245),
    "pink": (250, 160, 195),
}
SIZES = {"large": 15 / 16, "small": 5 / 8}
"""Part of the image's side that the drawing takes."""
_ALIKE = 0.1
"""Mean difference from its mirror image, of 1, below which the two are not told apart at a look."""


@dataclass(frozen=True)
class Look:
    """What a caption says beside the name and the style.

    Attributes:
        background: The colour behind, one of `BACKGROUNDS`.
        size: One of `SIZES`.
        mirrored: Whether left is right.
    """

    background: str
    size: str
    mirrored: bool


LOOKS = tuple(Look(*each) for each in product(BACKGROUNDS, SIZES, (False, True)))
"""All, the plain one first, which a caption says nothing of."""


def caption(name: str, style: str, look: Look) -> str:
    """Such as "a small mirrored red apple, noto style, on blue"."""
    words = ["small"] * (look.size == "small") + ["mirrored"] * look.mirrored + [name]
    thing = " ".join(words).replace("-", " ")
    article = "an" if thing[0] in "aeiou" else "a"
    ground = "" if look.background == "white" else f", on {look.background}"
    return f"{article} {thing}, {style} style{ground}"


def looks(icons: IconSet, name: str) -> tuple[Look, ...]:
    """Those that can be told apart: a drawing much like its mirror image has no mirrored one."""
    values = np.asarray(_drawn(icons, name, 32), np.float32) / 255
    alike = float(np.abs(values - values[:, ::-1]).mean()) < _ALIKE
    return tuple(look for look in LOOKS if not (alike and look.mirrored))


def draw(icons: IconSet, name: str, side: int, wanted: Sequence[Look]) -> Iterator[Image.Image]:
    """An icon in each of these looks, side x side pixels, RGB."""
    drawn = {size: _drawn(icons, name, round(side * part)) for size, part in SIZES.items()}
    for look in wanted:
        icon = drawn[look.size]
        if look.mirrored:
            icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = Image.new("RGB", (side, side), BACKGROUNDS[look.background])
        margin = (side - icon.width) // 2
        image.paste(icon, (margin, margin), icon)
        yield image


def _drawn(icons: IconSet, name: str, side: int) -> Image.Image:
    """The drawing alone, RGBA, twice as fine at first."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "icons: drawing them needs resvg-py (extra `icons`): pip install 'ray-dmd[icons]'"
        ) from error
    data = resvg_py.svg_to_bytes(svg_string=icons.svg(name), width=2 * side, height=2 * side)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    return image.resize((side, side), Image.Resampling.BOX)
