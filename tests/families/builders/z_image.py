"""Z-Image."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor

from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import qwen3, vae


def z_image() -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=12,
        axes_dims=(4, 2, 2),
        axes_lens=(128, 12, 12),
    )
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, 0.3611, shift_factor=0.1159),
        **qwen3(12),
    )


@dataclass(frozen=True, kw_only=True)
class Listed(OnLatents):
    """Its network takes and gives lists, x0 - eps; its pipeline's guidance is one less."""

    def unpack(self, latents: Any) -> Tensor:
        return torch.stack(latents).squeeze(2) if isinstance(latents, list) else latents

    def guidance(self, pipe: Any) -> float:
        return super().guidance(pipe) + 1.0

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        return super().arguments(guidance - 1.0)

    def _read(self, scheduler: Any, x_t: Tensor, out: Tensor, step: int) -> tuple:
        return super()._read(scheduler, x_t, -out, step)


BUILDERS: dict[str, Builder] = {
    "z-image": Listed(
        family="z-image",
        make=z_image,
        settings={"image_size": 16},
        call={"height": 16, "width": 16},
        few=FLOW_FEW,
        wrong=DDIM,
    )
}
