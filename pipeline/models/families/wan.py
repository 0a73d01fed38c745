"""Wan: a transformer on patches of the frames of a video."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.experts import TwoExperts
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.video_network import VideoNetwork

_FLAGS = ("boundary_ratio", "expand_timesteps")
"""What its `model_index.json` says of the way in which its networks are called."""


@register_family
class Wan(VideoNetwork):
    """A `WanTransformer3DModel`.

    The pipeline of Wan 2.2 TI2V 5B (`expand_timesteps`) tells it the time of each token. Without an
    image these are all one, which is told once here.

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
    def required(cls, folder: ModelFolder) -> set[str]:
        return {*super().required(folder), "transformer"}

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {name: index[name] for name in _FLAGS if index.get(name)}

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
        output: Tensor
        (output,) = self.backbone(
            hidden_states=x_t,
            timestep=self.position(t),
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
            return_dict=False,
        )
        return output


@register_family
class WanExperts(TwoExperts, Wan):
    """Two `WanTransformer3DModel`, of more and of less noise, as in Wan 2.2 A14B."""

    family = "wan-experts"
