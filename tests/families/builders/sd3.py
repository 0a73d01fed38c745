"""Stable Diffusion 3."""

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection

from tests.families.builder import Builder, OnLatents
from tests.fixtures.tiny_parts import clip, clip_tokenizer, t5, vae

DDIM = {"_class_name": "DDIMScheduler", "beta_schedule": "linear"}


def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=14,
        pos_embed_max_size=8,
    )
    third = {f"{name}_3": part for name, part in t5(24).items()}
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, 1.5305, shift_factor=0.0609),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModelWithProjection(clip(8, 8)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip(8, 6)),
        **third,
    )


BUILDERS: dict[str, Builder] = {
    "sd3": OnLatents(
        family="sd3",
        make=sd3,
        sizes=((32, 16), (24, 32)),  # as far as its table goes
        few={"early": ((0.8,), True), "fresh": ((1.0, 0.75, 0.5, 0.25), True)},
        wrong=DDIM,
    )
}
