"""Stable Diffusion 3 and 3.5: a transformer on latents with three text encoders."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import ComfyUI
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer


@register_family
class SD3(LatentTransformer):
    """An `SD3Transformer2DModel`.

    Source: Esser et al., 2024, arXiv 2403.03206.
    """

    family = "sd3"
    pipelines = ("StableDiffusion3Pipeline",)
    takes = {Flow: ("flow_prediction",)}
    shifts_by_size = True
    shifts_latents = True
    reads_padding = True  # its pipeline has no mask
    optional = frozenset({"text_encoder_3", "tokenizer_3"})
    widths: ClassVar = {
        "joint_attention_dim": {"text_encoder_3.hidden_size": 1},
        "pooled_projection_dim": {
            "text_encoder.projection_dim": 1,
            "text_encoder_2.projection_dim": 1,
        },
    }

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        return int(backbone.config.pos_embed_max_size)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _, pooled, _ = pipe.encode_prompt(
            texts, None, None, device=device, do_classifier_free_guidance=False
        )
        return Condition({"tokens": tokens, "pooled": pooled})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, pooled = condition["tokens"], condition["pooled"]
        output: Tensor = self.backbone(
            hidden_states=x_t,
            timestep=self.position(t),
            encoder_hidden_states=tokens.to(x_t.dtype),
            pooled_projections=pooled.to(x_t.dtype),
        ).sample
        return output

    @property
    def comfyui(self) -> ComfyUI | None:
        """None without T5: the pipeline has tokens of zeros in its place, and ComfyUI none."""
        if "text_encoder_3" in self.left_out:
            return None
        encoders = ("clip_l.safetensors", "clip_g.safetensors", "t5xxl_fp16.safetensors")
        source = ("Comfy-Org/stable-diffusion-3.5-fp8",)
        return ComfyUI(
            type="sd3",
            encoders=encoders,
            scaling=(1.5305, 0.0609),
            source=source,
            padding=(0, 256),
        )
