"""Chroma: a smaller FLUX.1, whose network is told neither guidance nor a summary of the prompt."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from pipeline.diffusion.condition import Condition
from pipeline.models.comfyui import ComfyUI
from pipeline.models.families.flux import COMFYUI, Flux, places
from pipeline.models.family import register_family
from pipeline.models.views import Wrapper, view

_NAMES = {
    **COMFYUI,
    "transformer_blocks.*.ff.net.0.proj": "double_blocks.*.img_mlp.0",
    "transformer_blocks.*.ff.net.2": "double_blocks.*.img_mlp.2",
    "transformer_blocks.*.ff_context.net.0.proj": "double_blocks.*.txt_mlp.0",
    "transformer_blocks.*.ff_context.net.2": "double_blocks.*.txt_mlp.2",
    **{f"single_transformer_blocks.*.attn.to_{each}": "single_blocks.*.linear1" for each in "qkv"},
    "single_transformer_blocks.*.proj_mlp": "single_blocks.*.linear1",
    "single_transformer_blocks.*.proj_out": "single_blocks.*.linear2",
    "distilled_guidance_layer.layers.*.linear_1": "distilled_guidance_layer.layers.*.in_layer",
    "distilled_guidance_layer.layers.*.linear_2": "distilled_guidance_layer.layers.*.out_layer",
    "distilled_guidance_layer.norms.*.weight": "distilled_guidance_layer.norms.*.scale",
    "proj_out": "final_layer.linear",
}
"""ComfyUI's."""


@register_family
class Chroma(Flux):
    """A `ChromaTransformer2DModel`.

    A block's modulation is a row of one table, which a small network makes of the time.

    Source: diffusers' `ChromaTransformer2DModel`, of the model lodestones/Chroma.
    """

    family = "chroma"
    pipelines = ("ChromaPipeline",)
    names_flow_sigmas = True
    widths: ClassVar = {"joint_attention_dim": {"text_encoder.hidden_size": 1}}
    time_embedding = "distilled_guidance_layer.in_proj"
    reads_padding = True  # its mask is a number that attention adds

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _, mask, *_ = pipe.encode_prompt(
            texts, device=device, do_classifier_free_guidance=False
        )
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, mask = condition["tokens"], condition["mask"].to(x_t.dtype)
        height, width = x_t.shape[2] // self.patch, x_t.shape[3] // self.patch
        # numbers that attention adds, not a choice of tokens: so does the pipeline
        mask = pad(mask, (0, height * width), value=1.0)
        output = _masked(self.backbone, mask)(
            hidden_states=pixel_unshuffle(x_t, self.patch).flatten(2).mT,
            timestep=t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            txt_ids=x_t.new_zeros(tokens.shape[1], 3),
            img_ids=places(height, width, x_t),
            attention_mask=mask,
        ).sample
        return pixel_shuffle(output.mT.unflatten(2, (height, width)), self.patch)

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """The image's tokens, behind the text's where a block has both."""
        found = super().of_image(output, x_t, condition)
        return found[:, -(x_t.shape[2] * x_t.shape[3] // self.patch**2) :]

    @property
    def comfyui(self) -> ComfyUI | None:
        """Its pipeline's network sees one token of padding."""
        return ComfyUI(
            type="chroma",
            encoders=("t5xxl_fp16.safetensors",),
            source=("comfyanonymous/flux_text_encoders",),
            padding=(1, 0),
            names=_NAMES,
        )

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        """Blocks that do nothing take the place of others: their number says which row is whose."""
        parts: dict[str, Any] = super().up_to(stage)
        for name, kept in parts.items():
            blocks: Any = self.get_submodule(name)
            streams = 1 if name.endswith("single_transformer_blocks") else 2
            kept.extend(_Nothing(streams) for _ in blocks[len(kept) :])
        return parts


class _Nothing(nn.Module):
    """A block that gives what it is given.

    Args:
        streams: 2, where it is given the text's tokens too, second; or 1.
    """

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, hidden_states: Tensor, *others: Any, **named: Any) -> Any:
        if self.streams == 1:
            return hidden_states
        return others[0] if others else named["encoder_hidden_states"], hidden_states


class _Masked(Wrapper):
    """A block that is given the mask in every call."""

    def __init__(self, inner: nn.Module, mask: Tensor) -> None:
        super().__init__(inner)
        self.mask = mask

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.inner(*args, **{**named, "attention_mask": self.mask})


def _masked(backbone: Any, mask: Tensor) -> Any:
    """A backbone that makes activations again in the backward pass as it made them.

    diffusers leaves the mask out there, in the blocks of one stream.
    """
    if not backbone.gradient_checkpointing:
        return backbone
    name = "single_transformer_blocks"
    blocks = nn.ModuleList(_Masked(block, mask) for block in getattr(backbone, name))
    return view(backbone, {name: blocks})
