"""Wan: a transformer on patches of the frames of a video."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import ComfyUI
from pipeline.models.experts import TwoExperts
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.video_network import VideoNetwork

_FLAGS = ("boundary_ratio", "expand_timesteps")
"""What its `model_index.json` says of the way in which its networks are called."""
_NAMES = {
    **{f"attn1.to_{each}": f"self_attn.{each}" for each in "qkv"},
    "attn1.to_out.0": "self_attn.o",
    "attn1": "self_attn",
    **{f"attn2.to_{each}": f"cross_attn.{each}" for each in "qkv"},
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "attn2": "cross_attn",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "blocks.*.norm2": "blocks.*.norm3",
    "blocks.*.scale_shift_table": "blocks.*.modulation",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
"""ComfyUI's; its LoRA loader knows no other."""
_FPS = 16
"""Of the videos that it was trained on; of Wan 2.2 TI2V 5B, 24."""
_SOURCE = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"


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
        return self.called(x_t, self.position(t), condition)

    def called(self, x_t: Tensor, time: Tensor, condition: Condition, **more: Tensor) -> Tensor:
        """The backbone's output at a time that it is told, (B,), or of each token, (B, N)."""
        output: Tensor
        (output,) = self.backbone(
            hidden_states=x_t,
            timestep=time,
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
            return_dict=False,
            **more,
        )
        return output

    @property
    def comfyui(self) -> ComfyUI:
        known = ComfyUI(
            type="wan",
            encoders=("umt5_xxl_fp16.safetensors",),
            vae="wan_2.1_vae.safetensors",
            source=(_SOURCE,),
            latents=("EmptyHunyuanLatentVideo", {}),
            fps=_FPS,
            names=_NAMES,
        )
        if not self.frozen.flags.get("expand_timesteps"):
            return known
        return replace(
            known,
            vae="wan2.2_vae.safetensors",
            source=(_SOURCE, "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"),
            latents=("Wan22ImageToVideoLatent", {"vae": ("vae", 0)}),
            fps=24,
        )


@register_family
class WanExperts(TwoExperts, Wan):
    """Two `WanTransformer3DModel`, of more and of less noise, as in Wan 2.2 A14B."""

    family = "wan-experts"
