"""Wan: a transformer on patches of the frames of a video."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.video_network import VideoNetwork


@register_family
class Wan(VideoNetwork):
    """A `WanTransformer3DModel`.

    Source: Wan Team, 2025, arXiv 2503.20314.
    """

    family = "wan"
    pipelines = ("WanPipeline",)
    takes = {Flow: ("flow_prediction",)}
    vaes = ("AutoencoderKLWan",)
    widths: ClassVar = {"text_dim": {"text_encoder.hidden_size": 1}}
    own = (81, 480, 832)
    time_embedding = "time_embedder"
    blocks = ("blocks",)
    unused = frozenset({"transformer_2"})

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if folder.index.get("boundary_ratio") is not None:
            return "it has two networks (boundary_ratio)"
        if folder.index.get("expand_timesteps"):
            return "it has a time for each token (expand_timesteps)"
        return super().problem(folder)

    @classmethod
    def required(cls, folder: ModelFolder) -> set[str]:
        return {*super().required(folder), cls.part}

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        return int(backbone.config.rope_max_seq_len)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _ = pipe.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=512, device=device
        )
        return Condition({"tokens": tokens})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.backbone(
            hidden_states=x_t,
            timestep=self.position(t),
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
        ).sample
        return output
