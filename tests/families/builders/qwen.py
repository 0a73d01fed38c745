"""Qwen-Image."""

from dataclasses import dataclass
from typing import Any

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor

from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import frame_vae, qwen_vl


def qwen() -> QwenImagePipeline:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.5,
        max_shift=0.9,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
    )
    return QwenImagePipeline(
        transformer=transformer, scheduler=scheduler, vae=frame_vae(), **qwen_vl(12)
    )


@dataclass(frozen=True, kw_only=True)
class OfFrames(OnLatents):
    """Its latents are packed, and one frame of a video."""

    def pack(self, latents: Tensor) -> Tensor:
        return QwenImagePipeline._pack_latents(latents, *latents.shape)

    def unpack(self, latents: Tensor) -> Tensor:
        sides = (2 * side for side in self.space)
        return QwenImagePipeline._unpack_latents(latents, *sides, 2)[:, :, 0]

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        first, settings = super().arguments(guidance)
        settings["true_cfg_scale"] = settings.pop("guidance_scale")
        return first, settings


BUILDERS: dict[str, Builder] = {
    "qwen": OfFrames(
        family="qwen",
        make=qwen,
        settings={"image_size": 16},
        call={"height": 16, "width": 16},
        few=FLOW_FEW,
        wrong=DDIM,
        idle=("1.attn.to_add_out", "1.txt_mlp"),
    )
}
