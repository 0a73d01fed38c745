"""Lumina 2: a transformer on one sequence of text and image, with Gemma."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import PROMPT, ComfyUI
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer
from pipeline.models.views import Wrapper, view

_NAMES = {
    **{f"attn.to_{each}": "attention.qkv" for each in "qkv"},
    "attn.to_out.0": "attention.out",
    "attn.norm_q": "attention.q_norm",
    "attn.norm_k": "attention.k_norm",
    "feed_forward.linear_*": "feed_forward.w*",
    "norm1.linear": "adaLN_modulation.1",
    "norm1.norm": "attention_norm1",
    "norm1": "attention_norm1",
    "norm2": "attention_norm2",
    "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_caption_embed.caption_embedder": "cap_embedder",
    "norm_out.linear_1": "final_layer.adaLN_modulation.1",
    "norm_out.linear_2": "final_layer.linear",
}
"""ComfyUI's."""


@register_family
class Lumina2(LatentTransformer):
    """A `Lumina2Transformer2DModel`; its time goes from noise to image, and so does its flow.

    Source: Qin et al., 2025, arXiv 2503.21758.
    """

    family = "lumina2"
    pipelines = ("Lumina2Pipeline",)
    takes = {Flow: ("flow_prediction",)}
    shifts_latents = True
    pipeline_spacing = "trailing"
    names_flow_sigmas = True
    guidance_norm = True
    widths: ClassVar = {"cap_feat_dim": {"text_encoder.hidden_size": 1}}
    blocks = ("noise_refiner", "layers")

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        return int(min(backbone.config.axes_lens[1:]))

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        encoded = pipe.encode_prompt(texts, negative, negative_prompt=texts, device=device)
        tokens, mask = encoded[2:] if negative else encoded[:2]
        length = int(mask.sum())  # padding stands behind
        return Condition({"tokens": tokens[:, :length], "mask": mask[:, :length]})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, backbone = condition["tokens"], self.backbone
        if tokens.is_meta:
            backbone = view(backbone, {"rope_embedder": _AllTokens(backbone.rope_embedder)})
        output: Tensor = backbone(
            hidden_states=x_t,
            timestep=1 - t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            encoder_attention_mask=condition["mask"],
        ).sample
        return -output

    def with_norm(self, x0: Tensor, cond: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Every row of the guided flow has the norm of the conditional one's.

        A flow is (x_t - x0) / t, and a row goes along the width.
        """
        flow = x_t - x0
        norm = (x_t - cond).norm(dim=-1, keepdim=True)
        return x_t - flow * (norm / flow.norm(dim=-1, keepdim=True))

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """The image's tokens, which stand behind a text of its own length in every row."""
        found, unit = super().of_image(output, x_t, condition), self.unit(self.backbone)
        count = x_t.shape[2] * x_t.shape[3] // unit**2
        if found.shape[1] == count:  # as the refiner's, before it sees the text
            return found
        starts = condition["mask"].sum(1, keepdim=True)
        places = starts + torch.arange(count, device=found.device)
        return found.gather(1, places[:, :, None].expand(-1, -1, found.shape[2]))

    @property
    def comfyui(self) -> ComfyUI | None:
        """With the system prompt of the pipeline."""
        return ComfyUI(
            type="lumina2",
            encoders=("gemma_2_2b_fp16.safetensors",),
            source=("Comfy-Org/Lumina_Image_2.0_Repackaged",),
            prompt=(
                "CLIPTextEncodeLumina2",
                {"system_prompt": "superior", "user_prompt": PROMPT},
            ),
            names=_NAMES,
        )


class _AllTokens(Wrapper):
    """The embedding of positions on the meta device, where no mask can be read: all tokens count.

    Rows are of one prompt there, and none has padding.
    """

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Any:
        return self.inner(hidden_states, torch.ones(mask.shape, dtype=torch.int64))
