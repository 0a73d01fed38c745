"""One file per family: its tiny models, by the names of their versions."""

from tests.families.builder import Builder
from tests.families.builders import (
    chroma,
    cogview4,
    dit,
    edm,
    flux,
    flux2,
    gaussian,
    kolors,
    lumina2,
    pixart,
    qwen,
    sana,
    sd,
    sd3,
    sdxl,
    song,
    unet2d,
    z_image,
)

BUILDERS: dict[str, Builder] = {
    **unet2d.BUILDERS,
    **edm.BUILDERS,
    **song.BUILDERS,
    **gaussian.BUILDERS,
    **sd.BUILDERS,
    **sdxl.BUILDERS,
    **kolors.BUILDERS,
    **dit.BUILDERS,
    **pixart.BUILDERS,
    **sd3.BUILDERS,
    **flux.BUILDERS,
    **flux2.BUILDERS,
    **sana.BUILDERS,
    **lumina2.BUILDERS,
    **chroma.BUILDERS,
    **cogview4.BUILDERS,
    **z_image.BUILDERS,
    **qwen.BUILDERS,
}
