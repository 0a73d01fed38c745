"""Chroma."""

from dataclasses import dataclass
from typing import Any

from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.flux import Packed
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import t5, vae


def chroma() -> ChromaPipeline:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=16,
        approximator_hidden_dim=8,
        approximator_layers=2,
    )
    return ChromaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, 0.3611, shift_factor=0.1159),
        **t5(12),
    )


@dataclass(frozen=True, kw_only=True)
class Guided(Packed):
    """Its latents are packed, its guidance is called as that of others."""

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        return OnLatents.arguments(self, guidance)


BUILDERS: dict[str, Builder] = {
    "chroma": Guided(
        family="chroma",
        make=chroma,
        settings={"image_size": 16},
        call={"height": 16, "width": 16},
        few=FLOW_FEW,
        wrong=DDIM,
    )
}
