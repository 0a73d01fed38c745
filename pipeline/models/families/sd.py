"""Stable Diffusion 1 and 2: UNets on latents, conditioned on text."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, VP
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.latent_network import LatentNetwork

_SD2_WIDTH = 1024
"""Of the text's embedding; version 1 has another."""


class LatentUNet(LatentNetwork):
    """A `UNet2DConditionModel` on latents."""

    takes = {VP: PREDICTIONS, EDM: ("edm", "edm_v")}

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if found := super().problem(folder):
            return found
        if folder.backbone.get("time_cond_proj_dim") is not None:
            return "its UNet takes guidance as an input (time_cond_proj_dim)"
        return None


@register_family
class StableDiffusion(LatentUNet):
    """A `UNet2DConditionModel` of versions 1 and 2."""

    family = "sd"
    pipelines = ("StableDiffusionPipeline",)
    unused = frozenset({"safety_checker", "feature_extractor"})
    widths: ClassVar = {"cross_attention_dim": {"text_encoder.hidden_size": 1}}

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {"requires_safety_checker": False}

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _ = pipe.encode_prompt(texts, device, 1, False)
        return Condition({"tokens": tokens})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens = condition["tokens"].to(x_t.dtype)
        output: Tensor = self.backbone(x_t, t, encoder_hidden_states=tokens).sample
        return output

    @property
    def title(self) -> str:
        two = self.backbone.config.cross_attention_dim == _SD2_WIDTH
        return f"Stable Diffusion {2 if two else 1}"

    @property
    def comfyui(self) -> str | None:
        """None for version 2, whose text encoder is another."""
        return "stable_diffusion" if self.title.endswith("1") else None
