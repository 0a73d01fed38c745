"""Stable Diffusion XL."""

from functools import partial
from typing import Any

from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.families.builder import Builder, OnLatents
from tests.families.builders.sd import BETAS, Embedded, text_unet
from tests.families.builders.unet2d import FLOW
from tests.fixtures.tiny_parts import clip, clip_tokenizer, vae

EULER = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
CHANNELS: dict[str, Any] = {
    "latents_mean": (-1.7, 1.9, -1.4, 2.5),
    "latents_std": (8.5, 5.9, 6.5, 5.2),
}
"""Of Playground's VAE."""


def sdxl(
    scheduler: Any, scaling: float = 0.13025, guidance: int | None = None, **of_vae: Any
) -> StableDiffusionXLPipeline:
    """Of a UNet with an input for guidance of so many numbers, or with none."""
    more: dict[str, Any] = {  # a projection of 6 and six numbers of 4 make 30 inputs
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 + 6 * 4,
        "time_cond_proj_dim": guidance,
    }
    return StableDiffusionXLPipeline(
        vae=vae(4, scaling, **of_vae),
        unet=text_unet(24, **more),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModel(clip(16, 16)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip(8, 6)),
        scheduler=scheduler,
        add_watermarker=False,
    )


def _builder(make: Any, kind: type[OnLatents] = OnLatents, **more: Any) -> OnLatents:
    return kind(family="sdxl", make=make, empty_is_none=True, wrong=FLOW, **more)


BUILDERS: dict[str, Builder] = {
    "sdxl": _builder(
        partial(sdxl, EULER),
        few={"early": ((399,), True), "times": ((999, 600, 200), True)},
    ),
    "lcm-xl": _builder(partial(sdxl, EULER, guidance=8), Embedded),
    "playground": _builder(
        partial(sdxl, EDMDPMSolverMultistepScheduler(), 0.5, **CHANNELS), solver="dpmpp_2m"
    ),
    "cosxl": _builder(
        partial(
            sdxl,
            EDMEulerScheduler(
                sigma_max=120.0,
                sigma_data=1.0,
                prediction_type="v_prediction",
                sigma_schedule="exponential",
            ),
        )
    ),
    "continuous": _builder(
        partial(
            sdxl,
            EulerDiscreteScheduler(
                sigma_min=0.002,
                sigma_max=700.0,
                timestep_type="continuous",
                prediction_type="v_prediction",
                use_karras_sigmas=True,
                timestep_spacing="leading",
            ),
        )
    ),
}
