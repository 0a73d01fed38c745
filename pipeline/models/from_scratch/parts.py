"""The parts of a new model on latents, in the classes of Stable Diffusion."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.config import AutoencoderConfig, NetworkConfig, TextConfig
from pipeline.diffusion import seeds


def new_autoencoder(config: AutoencoderConfig, size: int, seed: int) -> AutoencoderKL:
    """A VAE of images of three channels, whose latents have a side of size / 2^(levels - 1).

    Its ResNet blocks begin as the identity, so that it learns from the first step.
    """
    levels = len(config.channels)
    with _weights("autoencoder", seed):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(config.channels),
            layers_per_block=1,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            sample_size=size,
            mid_block_add_attention=False,
        )
        for block in vae.modules():
            if isinstance(block, ResnetBlock2D):
                nn.init.zeros_(block.conv2.weight)
    return vae


def new_text_encoder(config: TextConfig, tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """A text model that reads the tokens of a tokenizer."""
    with _weights("text encoder", seed):
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=config.width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )


def new_text_unet(
    network: NetworkConfig, text: TextConfig, shape: Sequence[int], seed: int
) -> UNet2DConditionModel:
    """A UNet on latents, (C, H, W), that attends to the text where the network attends."""
    channels, height, width = shape
    down = ("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in network.attention)
    up = ("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in network.attention[::-1])
    with _weights("weights", seed):
        return UNet2DConditionModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=tuple(network.channels),
            layers_per_block=network.layers,
            cross_attention_dim=text.width,
            attention_head_dim=text.heads,
            norm_num_groups=network.norm_groups,
        )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 2's noise, v-prediction (Salimans and Ho, 2022, arXiv 2202.00512)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """All parts as diffusers' pipeline."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@contextmanager
def _weights(purpose: str, seed: int) -> Iterator[None]:
    """Fresh weights follow from the seed and what they are for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(purpose, seed).initial_seed())
        yield
