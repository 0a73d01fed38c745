"""Tiny Stable Diffusion models, saved by diffusers itself in the layout of the real ones."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tokenizer() -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12)


def clip(width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=projection,
        eos_token_id=53,
        bos_token_id=52,
        pad_token_id=53,
    )


def save_tiny(folder: Path, version: str = "1", seed: int = 0) -> Path:
    """Save one with random weights.

    Version "1" predicts eps and comes with PNDM, "2" v with DDIM, "xl" eps with Euler, two text
    encoders and sizes.
    """
    torch.manual_seed(seed)
    more = {}
    if version == "xl":  # a projection of 6 and six numbers of 4 make 30 inputs
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 + 6 * 4,
        }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16 + 8 * (version == "xl"),
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.13025 if version == "xl" else 0.18215,
    )
    parts = {"vae": vae, "unet": unet, "tokenizer": tokenizer()}
    parts["text_encoder"] = CLIPTextModel(clip(16, 16))
    if version == "xl":
        parts["scheduler"] = EulerDiscreteScheduler(
            **BETAS, timestep_spacing="leading", steps_offset=1
        )
        StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection(clip(8, 6)),
            tokenizer_2=tokenizer(),
            add_watermarker=False,
        ).save_pretrained(folder)
        return folder
    if version == "1":
        parts["scheduler"] = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    else:
        parts["scheduler"] = DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
        )
    StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder
