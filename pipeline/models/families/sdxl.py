"""Stable Diffusion XL: UNets on latents that are told the images' size."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.models.comfyui import PROMPT, ComfyUI, Depths
from pipeline.models.families.sd import COMFYUI, LatentUNet
from pipeline.models.family import FROM_IMAGES, register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.vae import VAE, ScaleShift

_DEPTHS: tuple[Depths, ...] = (
    ((0, 0, 2, 2, 10, 10), 10, (10, 10, 10, 2, 2, 2, 0, 0, 0)),
    ((0, 0, 2, 2, 4, 4), -1, (4, 4, 10, 2, 1, 1, 0, 0, 0)),  # SSD-1B
    ((0, 0, 1, 1, 2, 2), -1, (2, 2, 2, 1, 1, 1, 0, 0, 0)),  # Segmind-Vega
    ((0, 2, 5), -2, (5, 5, 2, 2, 0, 0)),  # KOALA-700M
    ((0, 2, 6), 6, (6, 6, 2, 2, 0, 0)),  # KOALA-1B
)
"""Of the UNets in ComfyUI's list of diffusers' (`model_detection`)."""


class SizedUNet(LatentUNet):
    """A `UNet2DConditionModel` that is told a pooled embedding and sizes, beside tokens.

    Source: Podell et al., 2023, arXiv 2307.01952, Section 2.2.
    """

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
        # of an image not cropped
        sizes = pooled.new_tensor([*self.size, 0, 0, *self.size])
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(x_t), -1)}
        output: Tensor = self.backbone(
            x_t,
            t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            timestep_cond=self.guidance_input(x_t),
            added_cond_kwargs=added,
        ).sample
        return output


@register_family
class StableDiffusionXL(SizedUNet):
    """A `UNet2DConditionModel` with two text encoders.

    Source: Podell et al., 2023, arXiv 2307.01952.
    """

    family = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    optional = frozenset({"text_encoder", "tokenizer"})
    widths: ClassVar = {
        "cross_attention_dim": {"text_encoder.hidden_size": 1, "text_encoder_2.hidden_size": 1},
        "projection_class_embeddings_input_dim": {
            "text_encoder_2.projection_dim": 1,
            "unet.addition_time_embed_dim": 6,  # size before cropping, corner, size after
        },
    }

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if found := super().problem(folder):
            return found
        match folder.part("text_encoder_2"), folder.backbone:
            case (
                {"projection_dim": int(pooled)},
                {
                    "projection_class_embeddings_input_dim": int(inputs),
                    "addition_time_embed_dim": int(each),
                },
            ) if inputs == pooled + 5 * each:  # one number instead of the size after cropping
                return f"its UNet is told an aesthetic score, as the XL refiner's: {FROM_IMAGES}"
        return None

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        force = index.get("force_zeros_for_empty_prompt", True)
        return {"force_zeros_for_empty_prompt": force, "add_watermarker": False}

    @property
    def title(self) -> str:
        return "Stable Diffusion XL"

    @property
    def comfyui(self) -> ComfyUI | None:
        height, width = self.size
        sizes = {"width": width, "height": height, "crop_w": 0, "crop_h": 0}
        sizes |= {"target_width": width, "target_height": height}
        told = ("CLIPTextEncodeSDXL", {"text_g": PROMPT, "text_l": PROMPT, **sizes})
        return ComfyUI(**COMFYUI, type="sdxl", scaling=(0.13025, 0.0), prompt=told, depths=_DEPTHS)

    @classmethod
    def vae(cls, network: Any) -> VAE:
        """With mean and deviation of each channel, where the config has both."""
        config = network.config
        mean, spread = config.get("latents_mean"), config.get("latents_std")
        if mean is None or spread is None:
            return super().vae(network)
        scale = tuple(config.scaling_factor / each for each in spread)
        return VAE(network, ScaleShift(scale, tuple(mean)))
