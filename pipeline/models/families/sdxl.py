"""Stable Diffusion XL: a UNet on latents that is told the images' size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.models.families.sd import LatentUNet
from pipeline.models.family import register_family
from pipeline.models.vae import VAE, ScaleShift


@register_family
class StableDiffusionXL(LatentUNet):
    """A `UNet2DConditionModel` with two text encoders.

    Source: Podell et al., 2023, arXiv 2307.01952.
    """

    family = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    optional = frozenset({"text_encoder", "tokenizer"})

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        force = index.get("force_zeros_for_empty_prompt", True)
        return {"force_zeros_for_empty_prompt": force, "add_watermarker": False}

    @property
    def title(self) -> str:
        return "Stable Diffusion XL"

    @property
    def comfyui(self) -> str | None:
        return "sdxl"

    @classmethod
    def vae(cls, network: Any) -> VAE:
        """With mean and deviation of each channel, where the config has both."""
        config = network.config
        mean, spread = config.get("latents_mean"), config.get("latents_std")
        if mean is None or spread is None:
            return super().vae(network)
        scale = tuple(config.scaling_factor / each for each in spread)
        return VAE(network, ScaleShift(scale, tuple(mean)))

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
