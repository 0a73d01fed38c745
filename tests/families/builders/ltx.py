"""LTX-Video, with its first decoder and one that is told a time."""

from dataclasses import dataclass
from functools import partial

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from torch import Tensor

from tests.families.builder import Builder, OnVideos
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import t5


def ltx_vae(told: bool) -> AutoencoderKLLTXVideo:
    """Its latents are a quarter as large in space, half as large in time; `told` a time."""
    network = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8,),
        down_block_types=("LTXVideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("conv",),
        upsample_residual=(told,),
        upsample_factor=(1,),
        timestep_conditioning=told,
        patch_size=2,
        scaling_factor=0.8,
    )
    network.latents_mean.copy_(torch.tensor([-0.7571, -0.7089, -0.9113, 0.1075]))
    network.latents_std.copy_(torch.tensor([2.8184, 1.4541, 2.3275, 2.6558]))
    return network


def ltx(told: bool) -> LTXPipeline:
    transformer = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=12,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    return LTXPipeline(transformer=transformer, scheduler=scheduler, vae=ltx_vae(told), **t5(12))


@dataclass(frozen=True, kw_only=True)
class OfTokens(OnVideos):
    """A latent is a token."""

    def pack(self, latents: Tensor) -> Tensor:
        return LTXPipeline._pack_latents(latents)

    def unpack(self, latents: Tensor) -> Tensor:
        return LTXPipeline._unpack_latents(latents, *self.space)


def _builder(told: bool) -> OfTokens:
    return OfTokens(
        family="ltx",
        make=partial(ltx, told),
        pixels=4,
        sizes=((3, 32, 64), (7, 64, 32)),  # the pipeline takes multiples of 32 pixels
        settings={"image_size": [5, 32, 32]},
        call={"num_frames": 5, "height": 32, "width": 32},
        few={"fresh": ((1.0, 0.7, 0.3), True), "even": ((1.0, 0.9, 0.75, 0.5), False)},
        wrong=DDIM,
    )


BUILDERS: dict[str, Builder] = {"ltx": _builder(told=False), "ltx-told": _builder(told=True)}
