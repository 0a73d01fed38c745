"""Lumina 2."""

from dataclasses import dataclass
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor

from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import gemma, vae


def lumina2() -> Lumina2Pipeline:
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 12, 12),
        cap_feat_dim=8,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(4, 0.3611, shift_factor=0.1159),
        **gemma(8),
    )


@dataclass(frozen=True, kw_only=True)
class Towards(OnLatents):
    """Its network predicts where to go to the image, and the pipeline turns that around."""

    def _read(self, scheduler: Any, x_t: Tensor, out: Tensor, step: int) -> tuple:
        return super()._read(scheduler, x_t, -out, step)


BUILDERS: dict[str, Builder] = {
    "lumina2": Towards(
        family="lumina2",
        make=lumina2,
        sizes=((32, 16), (16, 48)),  # its pipeline takes multiples of 16 pixels
        call={"height": 16, "width": 16},
        few=FLOW_FEW,
        wrong=DDIM,
    )
}
