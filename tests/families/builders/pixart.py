"""PixArt-alpha and PixArt-sigma."""

from functools import partial

from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.families.builder import Builder, OnLatents
from tests.families.builders.unet2d import FLOW
from tests.fixtures.tiny_parts import t5, vae

CALL = {"use_resolution_binning": False, "clean_caption": False}


def pixart(version: str) -> PixArtAlphaPipeline:
    """Alpha is told size and aspect ratio, as that of 1024 pixels with its side of 128 is."""
    sigma = version == "pixart-sigma"
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,  # the ratio and both sides take a third each of 2 * 12
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=4,
        cross_attention_dim=24,
        caption_channels=12,
        sample_size=8 if sigma else 128,
        use_additional_conditions=not sigma,
    )
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    scheduler = DPMSolverMultistepScheduler()
    return kind(
        transformer=transformer,
        vae=vae(4, 0.13025 if sigma else 0.18215),
        scheduler=scheduler,
        **t5(12),
    )


BUILDERS: dict[str, Builder] = {
    "pixart-alpha": OnLatents(
        family="pixart",
        make=partial(pixart, "pixart-alpha"),
        settings={"image_size": 16},
        call=CALL | {"height": 16, "width": 16},
        solver="dpmpp_2m",
        few={"ddim": ((999, 499), False)},
        wrong=FLOW,
    ),
    "pixart-sigma": OnLatents(
        family="pixart",
        make=partial(pixart, "pixart-sigma"),
        call=CALL,
        solver="dpmpp_2m",
        few={"early": ((399,), True)},
        wrong=FLOW,
    ),
}
