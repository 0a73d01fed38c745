"""FLUX.1: a transformer on patches of latents; of some, guidance is an input."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import ComfyUI
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer

_BLOCK, _OWN = "transformer_blocks.*.attn", "double_blocks.*"
COMFYUI = {
    **{f"{_BLOCK}.to_{each}": f"{_OWN}.img_attn.qkv" for each in "qkv"},
    **{f"{_BLOCK}.add_{each}_proj": f"{_OWN}.txt_attn.qkv" for each in "qkv"},
    f"{_BLOCK}.to_out.0": f"{_OWN}.img_attn.proj",
    f"{_BLOCK}.to_add_out": f"{_OWN}.txt_attn.proj",
    f"{_BLOCK}.norm_q.weight": f"{_OWN}.img_attn.norm.query_norm.scale",
    f"{_BLOCK}.norm_k.weight": f"{_OWN}.img_attn.norm.key_norm.scale",
    f"{_BLOCK}.norm_added_q.weight": f"{_OWN}.txt_attn.norm.query_norm.scale",
    f"{_BLOCK}.norm_added_k.weight": f"{_OWN}.txt_attn.norm.key_norm.scale",
    "single_transformer_blocks.*.attn.norm_q.weight": "single_blocks.*.norm.query_norm.scale",
    "single_transformer_blocks.*.attn.norm_k.weight": "single_blocks.*.norm.key_norm.scale",
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
}
"""ComfyUI's names of what Flux's kin have in common; Flux itself it takes under diffusers'."""


@register_family
class Flux(LatentTransformer):
    """A `FluxTransformer2DModel`; with `guidance_embeds` guidance is an input of the network."""

    family = "flux"
    pipelines = ("FluxPipeline",)
    takes = {Flow: ("flow_prediction",)}
    shifts_by_size = True
    shifts_latents = True
    pipeline_spacing = "trailing"
    widths: ClassVar = {
        "joint_attention_dim": {"text_encoder_2.hidden_size": 1},
        "pooled_projection_dim": {"text_encoder.hidden_size": 1},
    }
    patch = 2
    reads_padding = True  # its pipeline has no mask

    @classmethod
    def fingerprint_settings(cls, teacher: TeacherConfig, backbone: Mapping[str, Any]) -> str:
        return str(teacher.embedded_guidance) if backbone.get("guidance_embeds") else ""

    @staticmethod
    def guidable(backbone: Any, flags: Mapping[str, Any]) -> bool:
        return not backbone.config.get("guidance_embeds")

    @staticmethod
    def channels(backbone: Any) -> int:
        return int(backbone.config.in_channels) // 4  # a token is a patch of 2x2

    @classmethod
    def own_side(cls, backbone: Any) -> int:
        return 128

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, pooled, _ = pipe.encode_prompt(texts, device=device)
        return Condition({"tokens": tokens, "pooled": pooled})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, pooled = condition["tokens"], condition["pooled"]
        height, width = x_t.shape[2] // self.patch, x_t.shape[3] // self.patch
        output = self.backbone(
            hidden_states=pixel_unshuffle(x_t, self.patch).flatten(2).mT,
            timestep=t,
            guidance=self._guidance(x_t),
            encoder_hidden_states=tokens.to(x_t.dtype),
            pooled_projections=pooled.to(x_t.dtype),
            txt_ids=x_t.new_zeros(tokens.shape[1], 3),
            img_ids=places(height, width, x_t),
        ).sample
        return pixel_shuffle(output.mT.unflatten(2, (height, width)), self.patch)

    def _guidance(self, x_t: Tensor) -> Tensor | None:
        """As an input, (B,); None for a network that has no such input."""
        if not self.backbone.config.get("guidance_embeds"):
            return None
        return x_t.new_tensor(self.embedded_guidance).expand(len(x_t))

    @property
    def comfyui(self) -> ComfyUI | None:
        known = ComfyUI(
            type="flux",
            encoders=("clip_l.safetensors", "t5xxl_fp16.safetensors"),
            source=("comfyanonymous/flux_text_encoders",),
            padding=(0, 512),
        )
        if not self.backbone.config.guidance_embeds:
            return known
        return known.telling("FluxGuidance", guidance=self.embedded_guidance)

    def usage(self) -> list[str]:
        embedded = self.backbone.config.get("guidance_embeds")
        return [self._usage('"a photo of a cat"', self.embedded_guidance if embedded else 1.0)]


def places(height: int, width: int, like: Tensor) -> Tensor:
    """(0, row, column) of every token, (height * width, 3)."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    grid = torch.meshgrid(torch.zeros_like(rows[:1]), rows, columns, indexing="ij")
    return torch.stack(grid, dim=-1).flatten(0, 2)
