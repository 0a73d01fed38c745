"""Stable Diffusion 1 and 2, and a consistency model of the first (LCM)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from diffusers import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from tests.families.builder import Builder, OnLatents
from tests.families.builders.unet2d import FLOW
from tests.fixtures.tiny_parts import clip, clip_tokenizer, vae

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def text_unet(width: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def stable_diffusion(version: str) -> StableDiffusionPipeline:
    """Version 1 predicts eps and comes with PNDM, 2 v with DDIM, or so with zero terminal SNR.

    Of "lcm", guidance is an input.
    """
    scheduler: Any = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    if version.startswith("sd2"):
        zero = version == "sd2-zero-snr"
        scheduler = DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
            rescale_betas_zero_snr=zero,
            timestep_spacing="trailing" if zero else "leading",
        )
    return StableDiffusionPipeline(
        vae=vae(4, 0.18215),
        unet=text_unet(16, time_cond_proj_dim=8 if version == "lcm" else None),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModel(clip(16, 16)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@dataclass(frozen=True, kw_only=True)
class Embedded(OnLatents):
    """Its guidance is an input, of 3.5."""

    guidable: bool = False
    negatable: bool = False

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        return super().arguments(3.5)


def _builder(version: str, kind: type[OnLatents] = OnLatents, **more: Any) -> OnLatents:
    make = partial(stable_diffusion, version)
    return kind(family="sd", make=make, empty_is_none=True, wrong=FLOW, **more)


BUILDERS: dict[str, Builder] = {
    "sd1": _builder("sd1", solver="plms", few={"lcm": ((999, 749, 499, 249), True)}),
    "lcm": _builder("lcm", Embedded, solver="plms", few={"lcm": ((999, 499), True)}),
    "sd2": _builder("sd2"),
    "sd2-zero-snr": _builder("sd2-zero-snr", few={"early": ((399,), True)}),
}
