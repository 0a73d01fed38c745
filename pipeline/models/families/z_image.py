"""Z-Image: one transformer over the patches of an image and the words of a chat."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow, expand
from pipeline.models.comfyui import ComfyUI
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer


@register_family
class ZImage(LatentTransformer):
    """A `ZImageTransformer2DModel`: it gives x0 - eps, and its time is 1 at the clean image.

    Its pipeline adds `guidance_scale` (pos - neg) to pos, which is a guidance of one more here.

    Source: Z-Image Team, 2025, arXiv 2511.22699.
    """

    family = "z-image"
    pipelines = ("ZImagePipeline",)
    takes = {Flow: ("flow_prediction",)}
    chats = True
    shifts_by_size = True
    shifts_latents = True
    pipeline_spacing = "trailing"
    widths: ClassVar = {"cap_feat_dim": {"text_encoder.hidden_size": 1}}
    patch = 2
    guidance_norm = False
    time_embedding = "t_embedder"
    blocks = ("layers",)

    @classmethod
    def own_side(cls, backbone: Any) -> int:
        return 128

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        return int(min(backbone.config.axes_lens[1:]))

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        rows, _ = pipe.encode_prompt(texts, device=device, do_classifier_free_guidance=False)
        masks = [row.new_ones((1, len(row)), dtype=torch.bool) for row in rows]
        each = [{"tokens": row[None], "mask": mask} for row, mask in zip(rows, masks, strict=True)]
        return Condition.cat([Condition(tensors) for tensors in each])

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, mask = condition["tokens"].to(x_t.dtype), condition["mask"]
        lengths = [mask.shape[1]] * len(mask) if mask.is_meta else mask.sum(1).tolist()
        output = self.backbone(
            x=list(x_t.unsqueeze(2)),
            t=(1000 - self.position(t)) / 1000,
            cap_feats=[row[:length] for row, length in zip(tokens, lengths, strict=True)],
        ).sample
        return -torch.stack(output).squeeze(2)

    def with_norm(self, x0: Tensor, cond: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """No sample's guided flow is larger than its conditional one.

        A flow is (x_t - x0) / t.
        """
        flow, without = x_t - x0, x_t - cond
        kept = without.flatten(1).norm(dim=1) / flow.flatten(1).norm(dim=1)
        return x_t - flow * expand(kept.clamp(max=1), flow)

    def guidance_end(self, until: float, times: Tensor | None) -> float:
        """By the time itself, as its pipeline does, not by steps; the end is guided too."""
        return 1 - until - 1e-6

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """Its first tokens: those that fill them up, and of the text, follow."""
        height, width = x_t.shape[2:]
        tokens: Tensor = output[:, : height * width // self.patch**2]
        return tokens

    @property
    def comfyui(self) -> ComfyUI | None:
        encoders, source = ("qwen_3_4b.safetensors",), ("Comfy-Org/z_image_turbo",)
        return ComfyUI(type="lumina2", encoders=encoders, source=source)

    def usage(self) -> list[str]:
        return [self._usage('"a photo of a cat"', 0.0)]
