"""Wan."""

from typing import Any

from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from tests.families.builder import Builder, OnVideos
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import umt5


def wan_vae() -> AutoencoderKLWan:
    """Its latents are half as large, in space and in time."""
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[-0.7571, -0.7089, -0.9113, 0.1075],
        latents_std=[2.8184, 1.4541, 2.3275, 2.6558],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )


def transformer(**more: Any) -> WanTransformer3DModel:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 12,
        "freq_dim": 8,
        "ffn_dim": 16,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    return WanTransformer3DModel(**{**sizes, **more})


def wan(scheduler: Any) -> WanPipeline:
    return WanPipeline(transformer=transformer(), scheduler=scheduler, vae=wan_vae(), **umt5(12))


def euler() -> WanPipeline:
    return wan(FlowMatchEulerDiscreteScheduler(shift=3.0))


def unipc() -> WanPipeline:
    """As it is released, but for the order: the first is Euler's method."""
    return wan(
        UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=3.0,
            solver_order=1,
            disable_corrector=list(range(50)),
        )
    )


BUILDERS: dict[str, Builder] = {
    "wan": OnVideos(
        family="wan",
        make=euler,
        few={"ode": ((1.0, 0.6), False), "renoise": ((1.0, 0.9375, 5 / 6, 0.625), True)},
        wrong=DDIM,
    ),
    "wan-unipc": OnVideos(
        family="wan", make=unipc, few={"renoise": ((1.0, 0.757, 0.522), True)}, wrong=DDIM
    ),
}
