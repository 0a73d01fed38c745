"""Stable Diffusion XL."""

from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.families.builder import Builder, OnLatents
from tests.families.builders.sd import BETAS, text_unet
from tests.families.builders.unet2d import FLOW
from tests.fixtures.tiny_parts import clip, clip_tokenizer, vae


def sdxl() -> StableDiffusionXLPipeline:
    more = {  # a projection of 6 and six numbers of 4 make 30 inputs
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 + 6 * 4,
    }
    return StableDiffusionXLPipeline(
        vae=vae(4, 0.13025),
        unet=text_unet(24, **more),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModel(clip(16, 16)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip(8, 6)),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


BUILDERS: dict[str, Builder] = {
    "sdxl": OnLatents(
        family="sdxl",
        make=sdxl,
        empty_is_none=True,
        few={"early": ((399,), True), "times": ((999, 600, 200), True)},
        wrong=FLOW,
    )
}
