"""SANA: a linear transformer on the latents of a deep VAE."""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer


@register_family
class Sana(LatentTransformer):
    """A `SanaTransformer2DModel`.

    Source: Xie et al., 2024, arXiv 2410.10629.
    """

    family = "sana"
    pipelines = ("SanaPipeline",)
    takes = {Flow: ("flow_prediction",)}
    vaes = ("AutoencoderDC",)
    widths: ClassVar = {"caption_channels": {"text_encoder.hidden_size": 1}}
    # binning would make another size of it
    call_at_size: ClassVar[dict[str, Any]] = {"use_resolution_binning": False}

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        habit = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"]
        tokens, mask, _, _ = pipe.encode_prompt(
            texts,
            False,
            device=device,
            complex_human_instruction=None if negative else habit.default,
        )
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, mask = condition["tokens"], condition["mask"]
        output: Tensor = self.backbone(
            x_t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            encoder_attention_mask=mask,
            timestep=self.position(t) * self.backbone.config.get("timestep_scale", 1.0),
        ).sample
        return output
