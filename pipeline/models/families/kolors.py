"""Kolors: SDXL's UNet, which projects the tokens of a language model to its own width."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.models.families.sdxl import SizedUNet
from pipeline.models.family import register_family


@register_family
class Kolors(SizedUNet):
    """A `UNet2DConditionModel` with ChatGLM3 as its text encoder.

    Source: Kolors Team, 2024, "Kolors: Effective Training of Diffusion Model for Photorealistic
    Text-to-Image Synthesis".
    """

    family = "kolors"
    pipelines = ("KolorsPipeline",)
    widths: ClassVar = {
        "encoder_hid_dim": {"text_encoder.hidden_size": 1},
        "projection_class_embeddings_input_dim": {
            "text_encoder.hidden_size": 1,
            "unet.addition_time_embed_dim": 6,  # as SDXL
        },
    }

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        force = index.get("force_zeros_for_empty_prompt", False)
        return {"force_zeros_for_empty_prompt": force}

    @property
    def title(self) -> str:
        return "Kolors"
