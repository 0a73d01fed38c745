"""Stable Diffusion 1, 2 and XL: UNets on latents, conditioned on text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.models.latent_network import LatentNetwork


class StableDiffusion(LatentNetwork):
    """A `UNet2DConditionModel` of versions 1 and 2."""

    part = "unet"

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _ = pipe.encode_prompt(texts, device, 1, False)
        return Condition({"tokens": tokens})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens = condition["tokens"].to(x_t.dtype)
        output: Tensor = self.backbone(x_t, t, encoder_hidden_states=tokens).sample
        return output

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {"requires_safety_checker": False}


class StableDiffusionXL(LatentNetwork):
    """A `UNet2DConditionModel` told the images' size, with two text encoders."""

    part = "unet"

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        if negative and texts == [""]:  # the model's habit decides: an empty prompt or zeros
            _, tokens, _, pooled = pipe.encode_prompt(texts, device=device)
        else:
            tokens, _, pooled, _ = pipe.encode_prompt(
                texts, device=device, do_classifier_free_guidance=False
            )
        return Condition({"tokens": tokens, "pooled": pooled})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, pooled = condition["tokens"], condition["pooled"]
        # size before cropping, the corner cropped to, size after: of an image not cropped
        sizes = pooled.new_tensor([self.size, self.size, 0, 0, self.size, self.size])
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(x_t), -1)}
        output: Tensor = self.backbone(
            x_t, t, encoder_hidden_states=tokens.to(x_t.dtype), added_cond_kwargs=added
        ).sample
        return output

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        force = index.get("force_zeros_for_empty_prompt", True)
        return {"force_zeros_for_empty_prompt": force, "add_watermarker": False}
