"""DiT."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor

from pipeline.config import TeacherConfig
from pipeline.models.denoiser import Denoiser
from tests.families.builder import Builder, OnLatents, shown
from tests.families.builders.unet2d import FLOW
from tests.fixtures.tiny_parts import vae


def dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=4,
        sample_size=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
    )
    return DiTPipeline(transformer, vae(4, 0.18215), DDIMScheduler(clip_sample=False))


@dataclass(frozen=True, kw_only=True)
class OfClasses(OnLatents):
    """It takes classes and a generator, and gives images alone."""

    labels: tuple[int, int] | None = (207, 360)
    negatable: bool = False
    output = "pt"

    def teacher(self, folder: Any, prompts: Any) -> TeacherConfig:
        return super().teacher(folder, prompts).model_copy(update={"prompts": None})

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        assert self.labels is not None
        rng = torch.Generator().manual_seed(1)
        return [*self.labels], {"guidance_scale": guidance, "generator": rng}

    def visible(self, network: Denoiser, x0: Tensor) -> Tensor:
        return shown(network.decode(x0))


BUILDERS: dict[str, Builder] = {
    "dit": OfClasses(family="dit", make=dit, sizes=(), few={"early": ((399,), True)}, wrong=FLOW)
}
