"""A family of models from outside: AuraFlow, in one file."""

from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer


@register_family
class AuraFlow(LatentTransformer):
    """An `AuraFlowTransformer2DModel`."""

    family = "auraflow"
    pipelines = ("AuraFlowPipeline",)
    takes = {Flow: ("flow_prediction",)}
    widths = {"joint_attention_dim": {"text_encoder.hidden_size": 1}}
    time_embedding = "time_step_proj"
    blocks = ("joint_transformer_blocks",)  # the others mix text into the image's tokens

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        return int(backbone.config.pos_embed_max_size**0.5)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, *_ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return Condition({"tokens": tokens})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens = condition["tokens"].to(x_t.dtype)
        return self.backbone(x_t, encoder_hidden_states=tokens, timestep=t).sample
