"""FLUX.1 dev, told its guidance, and schnell."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel

from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import clip, clip_tokenizer, t5, vae


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
        vae=vae(4, 0.3611, shift_factor=0.1159),
        tokenizer=clip_tokenizer(),
        text_encoder=CLIPTextModel(clip(16, 16)),
        **second,
    )


@dataclass(frozen=True, kw_only=True)
class Packed(OnLatents):
    """Its latents are packed; `guidance_scale` is an input, guidance has another name."""

    def pack(self, latents: Tensor) -> Tensor:
        return FluxPipeline._pack_latents(latents, *latents.shape)

    def unpack(self, latents: Tensor) -> Tensor:
        return FluxPipeline._unpack_latents(latents, *(2 * side for side in self.space), 2)

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        first, settings = super().arguments(3.5)
        return first, settings | ({"true_cfg_scale": guidance} if self.guidable else {})


def _builder(version: str) -> Packed:
    return Packed(
        family="flux",
        make=partial(flux, version),
        settings={"image_size": 16},
        call={"height": 16, "width": 16},
        guidable=version == "flux-schnell",
        negatable=version == "flux-schnell",
        few=FLOW_FEW,
        wrong=DDIM,
    )


BUILDERS: dict[str, Builder] = {
    version: _builder(version) for version in ("flux-dev", "flux-schnell")
}
