"""Wan."""

from dataclasses import replace
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


def wan_vae(**more: Any) -> AutoencoderKLWan:
    """Its latents are half as large, in space and in time."""
    sizes: dict[str, Any] = {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True],
        "latents_mean": [-0.7571, -0.7089, -0.9113, 0.1075],
        "latents_std": [2.8184, 1.4541, 2.3275, 2.6558],
        "scale_factor_temporal": 2,
        "scale_factor_spatial": 2,
    }
    return AutoencoderKLWan(**{**sizes, **more})


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


def wan(scheduler: Any, **more: Any) -> WanPipeline:
    parts = {"transformer": transformer(), "vae": wan_vae(), **umt5(12)}
    return WanPipeline(scheduler=scheduler, **{**parts, **more})


def euler() -> WanPipeline:
    return wan(FlowMatchEulerDiscreteScheduler(shift=3.0))


def unipc(**more: Any) -> WanPipeline:
    """As it is released, but for the order: the first is Euler's method."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        solver_order=1,
        disable_corrector=list(range(50)),
    )
    return wan(scheduler, **more)


def experts() -> WanPipeline:
    """As Wan 2.2 A14B."""
    return unipc(transformer_2=transformer(), boundary_ratio=0.7)


def small() -> WanPipeline:
    """As Wan 2.2 TI2V 5B: patches of two pixels go into its VAE."""
    patches: dict[str, Any] = {"patch_size": 2, "in_channels": 12, "out_channels": 12}
    return unipc(
        vae=wan_vae(scale_factor_spatial=4, is_residual=True, **patches), expand_timesteps=True
    )


AT_BOTH = {"ode": ((1.0, 0.6), False), "renoise": ((1.0, 0.757, 0.522), True)}
"""Students that ask both experts."""

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
    "wan-experts": OnVideos(family="wan-experts", make=experts, few=AT_BOTH, wrong=DDIM),
    "wan-small": replace(
        OnVideos(family="wan", make=small, pixels=4, wrong=DDIM).sized(5, 32, 32),
        sizes=((3, 64, 32), (7, 32, 96)),
    ),
}
