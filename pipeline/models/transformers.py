"""Diffusion transformers on latents: DiT, PixArt, SD3, Flux and SANA."""

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Schedule
from pipeline.models.condition import ClassLabels
from pipeline.models.latent_network import LatentNetwork


class DiT(LatentNetwork):
    """A `DiTTransformer2DModel`; its labels are classes, none is its null class.

    Source: Peebles and Xie, 2022, arXiv 2212.09748.
    """

    def __init__(self, backbone: Any, *rest: Any) -> None:
        super().__init__(backbone, *rest)
        classes = int(backbone.config.num_embeds_ada_norm)
        self.conditioner = ClassLabels(classes, null_label=classes)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.backbone(x_t, timestep=t, class_labels=condition["labels"]).sample
        return output

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {"id2label": index.get("id2label")}


class PixArt(LatentNetwork):
    """A `PixArtTransformer2DModel`, alpha or sigma.

    Source: Chen et al., 2023, arXiv 2310.00426, and 2024, arXiv 2403.04692.
    """

    call_defaults: ClassVar[dict[str, Any]] = {"clean_caption": False}

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        habit = inspect.signature(type(pipe).__call__).parameters["max_sequence_length"]
        tokens, mask, _, _ = pipe.encode_prompt(
            texts, False, device=device, max_sequence_length=habit.default
        )
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, mask = condition["tokens"], condition["mask"]
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.backbone.use_additional_conditions:
            added["resolution"] = x_t.new_tensor([[self.size, self.size]]).expand(len(x_t), 2)
            added["aspect_ratio"] = x_t.new_ones(len(x_t), 1)
        output: Tensor = self.backbone(
            x_t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            encoder_attention_mask=mask,
            timestep=t,
            added_cond_kwargs=added,
        ).sample
        return output


class SD3(LatentNetwork):
    """An `SD3Transformer2DModel`: Stable Diffusion 3 and 3.5.

    Source: Esser et al., 2024, arXiv 2403.03206.
    """

    def __init__(self, backbone: Any, schedule: Schedule, prediction: str, pipe: Any, *rest: Any):
        super().__init__(backbone, schedule, prediction, pipe, *rest)
        # asked for the width of the zeros that stand for an encoder left out
        vars(pipe)["transformer"] = SimpleNamespace(config=backbone.config)

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


class Flux(LatentNetwork):
    """A `FluxTransformer2DModel`; with `guidance_embeds` guidance is an input of the network."""

    spacing = "trailing"
    patch = 2

    @staticmethod
    def guidable(backbone: Any) -> bool:
        return not backbone.config.guidance_embeds

    @staticmethod
    def channels(backbone: Any) -> int:
        return int(backbone.config.in_channels) // 4  # a token is a patch of 2x2

    @classmethod
    def own_side(cls, backbone: Any) -> int:
        return 128

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, pooled, _ = pipe.encode_prompt(texts, device=device)
        return Condition({"tokens": tokens, "pooled": pooled})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        guidance = None
        if self.backbone.config.guidance_embeds:
            guidance = x_t.new_tensor(self.embedded_guidance).expand(len(x_t))
        tokens, pooled = condition["tokens"], condition["pooled"]
        rows, channels, height, width = x_t.shape
        pipe = self.frozen.pipe
        output = self.backbone(
            hidden_states=pipe._pack_latents(x_t, rows, channels, height, width),
            timestep=t,
            guidance=guidance,
            encoder_hidden_states=tokens.to(x_t.dtype),
            pooled_projections=pooled.to(x_t.dtype),
            txt_ids=x_t.new_zeros(tokens.shape[1], 3),
            img_ids=pipe._prepare_latent_image_ids(
                rows, height // 2, width // 2, x_t.device, x_t.dtype
            ),
        ).sample
        factor = self.latents.factor
        unpacked: Tensor = pipe._unpack_latents(output, height * factor, width * factor, factor)
        return unpacked


class Sana(LatentNetwork):
    """A `SanaTransformer2DModel`.

    Source: Xie et al., 2024, arXiv 2410.10629.
    """

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        habit = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"]
        tokens, mask, _, _ = pipe.encode_prompt(
            texts,
            False,
            device=device,
            complex_human_instruction=None if negative else habit.default,
        )
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, mask = condition["tokens"], condition["mask"]
        output: Tensor = self.backbone(
            x_t,
            encoder_hidden_states=tokens.to(x_t.dtype),
            encoder_attention_mask=mask,
            timestep=self.position(t) * self.backbone.config.timestep_scale,
        ).sample
        return output
