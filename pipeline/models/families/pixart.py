"""PixArt-alpha and PixArt-sigma: transformers on latents, conditioned on text."""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import VP
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer


@register_family
class PixArt(LatentTransformer):
    """A `PixArtTransformer2DModel`, alpha or sigma.

    Source: Chen et al., 2023, arXiv 2310.00426, and 2024, arXiv 2403.04692.
    """

    family = "pixart"
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    takes = {VP: PREDICTIONS}
    call_defaults: ClassVar[dict[str, Any]] = {"clean_caption": False}
    widths: ClassVar = {"caption_channels": {"text_encoder.hidden_size": 1}}
    # binning would make another size of it
    call_at_size: ClassVar[dict[str, Any]] = {"use_resolution_binning": False}

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        habit = inspect.signature(type(pipe).__call__).parameters["max_sequence_length"]
        tokens, mask, _, _ = pipe.encode_prompt(
            texts, False, device=device, max_sequence_length=habit.default
        )
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, mask = condition["tokens"], condition["mask"]
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.backbone.use_additional_conditions:
            height, width = self.size
            added["resolution"] = x_t.new_tensor([[height, width]]).expand(len(x_t), 2)
            added["aspect_ratio"] = x_t.new_tensor([[height / width]]).expand(len(x_t), 1)
        output: Tensor = self.backbone(
            x_t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            encoder_attention_mask=mask,
            timestep=t,
            added_cond_kwargs=added,
        ).sample
        return output
