"""Stable Diffusion 1 and 2: UNets on latents, conditioned on text."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, VP
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.models.comfyui import ComfyUI, Depths
from pipeline.models.family import register_family
from pipeline.models.latent_network import LatentNetwork

_SD2_WIDTH = 1024
"""Of the text's embedding; version 1 has another."""
_DEPTHS: tuple[Depths, ...] = (
    ((1, 1, 1, 1, 1, 1, 0, 0), 1, (0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
    ((0, 1, 1), -2, (1, 1, 1, 1, 0, 0)),  # SDXS
)
"""Of the UNets in ComfyUI's list of diffusers' (`model_detection`)."""
COMFYUI: dict[str, Any] = {
    "latents": ("EmptyLatentImage", {}),
    "kohya": True,
    "dtype": torch.float16,
}
"""Of the UNets that ComfyUI knows: it takes them under diffusers' names."""


class LatentUNet(LatentNetwork):
    """A `UNet2DConditionModel` on latents; with `time_cond_proj_dim` guidance is an input of it.

    Source: of that input, Luo et al., 2023, arXiv 2310.04378, Section 4.1 (LCM).
    """

    takes = {VP: PREDICTIONS, EDM: ("edm", "edm_v")}
    reads_padding = True  # their pipelines have no mask

    @classmethod
    def fingerprint_settings(cls, teacher: TeacherConfig, backbone: Mapping[str, Any]) -> str:
        return str(teacher.embedded_guidance) if backbone.get("time_cond_proj_dim") else ""

    @staticmethod
    def guidable(backbone: Any, flags: Mapping[str, Any]) -> bool:
        return not backbone.config.time_cond_proj_dim

    def guidance_input(self, x_t: Tensor) -> Tensor | None:
        """Guidance as the UNet takes it, (B, D); None where it is no input."""
        from diffusers.models.embeddings import get_timestep_embedding

        width = self.backbone.config.time_cond_proj_dim
        if not width:
            return None
        position = 1000 * (x_t.new_tensor(self.embedded_guidance, dtype=torch.float32) - 1)
        embedding: Tensor = get_timestep_embedding(
            position.expand(len(x_t)), width, downscale_freq_shift=1
        )
        return embedding.to(x_t.dtype)

    def usage(self) -> list[str]:
        told = self.backbone.config.time_cond_proj_dim
        guidance = self.embedded_guidance if told else 1.0
        return [self._usage('"a photo of a cat"', guidance)]


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
        output: Tensor = self.backbone(
            x_t, t, encoder_hidden_states=tokens, timestep_cond=self.guidance_input(x_t)
        ).sample
        return output

    @property
    def title(self) -> str:
        two = self.backbone.config.cross_attention_dim == _SD2_WIDTH
        return f"Stable Diffusion {2 if two else 1}"

    @property
    def comfyui(self) -> ComfyUI | None:
        """None for version 2, whose text encoder is another."""
        if not self.title.endswith("1"):
            return None
        return ComfyUI(**COMFYUI, type="stable_diffusion", scaling=(0.18215, 0.0), depths=_DEPTHS)
