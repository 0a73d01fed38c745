"""Tiny models on latents, saved by diffusers itself in the layout of the real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny_parts import clip, clip_tokenizer, dc, gemma, t5, vae

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
    """Version 1 predicts eps and comes with PNDM, 2 v with DDIM, or so with zero terminal SNR."""
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
        unet=text_unet(16),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModel(clip(16, 16)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(version: str) -> StableDiffusionXLPipeline:
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


def dit(version: str) -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=4,
        sample_size=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
    )
    return DiTPipeline(transformer, vae(4, 0.18215), DDIMScheduler(clip_sample=False))


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


def sd3(version: str) -> StableDiffusion3Pipeline:
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
        vae=vae(4, 1.5305, 0.0609),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModelWithProjection(clip(8, 8)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip(8, 6)),
        **third,
    )


def flux(version: str) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=16,
        guidance_embeds=version == "flux-dev",
        axes_dims_rope=(2, 2, 4),
    )
    dynamic = version == "flux-dev"
    second = {f"{name}_2": part for name, part in t5(12).items()}
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if dynamic else 1.0, use_dynamic_shifting=dynamic
        ),
        vae=vae(4, 0.3611, 0.1159),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModel(clip(16, 16)),
        **second,
    )


def sana(version: str) -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        sample_size=16,  # the pipeline takes multiples of 32 pixels
    )
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    return SanaPipeline(
        transformer=transformer, vae=dc(4, 0.41407), scheduler=scheduler, **gemma(8)
    )


FAMILIES: dict[str, Callable[[str], Any]] = {
    "sd1": stable_diffusion,
    "sd2": stable_diffusion,
    "sd2-zero-snr": stable_diffusion,
    "sdxl": sdxl,
    "dit": dit,
    "pixart-alpha": pixart,
    "pixart-sigma": pixart,
    "sd3": sd3,
    "flux-dev": flux,
    "flux-schnell": flux,
    "sana": sana,
}


def save_tiny(folder: Path, version: str = "sd1", seed: int = 0) -> Path:
    """Save one with random weights, also where a new network would start with zeros."""
    torch.manual_seed(seed)
    pipe = FAMILIES[version](version)
    backbone = getattr(pipe, "transformer", None) or pipe.unet
    with torch.no_grad():
        for weight in backbone.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    pipe.save_pretrained(folder)
    return folder
