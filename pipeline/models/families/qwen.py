"""Qwen-Image: Flux's latents and times, prompts read by a model of text and images."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.diffusion import guidance
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import expand
from pipeline.models.comfyui import ComfyUI
from pipeline.models.families.flux import Flux
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.vae import VAE, FrameVAE


@register_family
class QwenImage(Flux):
    """A `QwenImageTransformer2DModel`.

    Source: Wu et al., 2025, arXiv 2508.02324.
    """

    family = "qwen"
    pipelines = ("QwenImagePipeline",)
    vaes = ("AutoencoderKLQwenImage",)
    widths: ClassVar = {"joint_attention_dim": {"text_encoder.hidden_size": 1}}
    call_defaults: ClassVar[dict[str, Any]] = {"true_cfg_scale": 1.0}

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if folder.backbone.get("guidance_embeds"):
            return "guidance is an input of it (guidance_embeds), which diffusers has no code for"
        return super().problem(folder)

    @classmethod
    def vae(cls, network: Any) -> VAE:
        return FrameVAE(network)

    @classmethod
    def unit(cls, backbone: Any) -> int:
        return cls.patch  # `patch_size` is the same patch, not one of several

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        # one prompt, so that no token is padding, and as long as the pipeline's call takes it
        tokens, _ = pipe.encode_prompt(texts, device=device, max_sequence_length=512)
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.int64)
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        height, width = x_t.shape[2] // self.patch, x_t.shape[3] // self.patch
        output = self.backbone(
            hidden_states=pixel_unshuffle(x_t, self.patch).flatten(2).mT,
            timestep=t,
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
            encoder_hidden_states_mask=condition["mask"],
            img_shapes=[[(1, height, width)]] * len(x_t),
        ).sample
        return pixel_shuffle(output.mT.unflatten(2, (height, width)), self.patch)

    def guided(
        self,
        uncond: Tensor,
        cond: Tensor,
        scale: float | Tensor,
        x_t: Tensor,
        t: Tensor,
        norm: bool | None = None,
    ) -> Tensor:
        """Of the velocity, (x_t - x0) / t; each token keeps the norm it has without guidance."""
        time = expand(t, x_t)
        without, plain = (pixel_unshuffle((x_t - x0) / time, self.patch) for x0 in (uncond, cond))
        pushed = guidance.guided(without, plain, scale)
        kept = plain.norm(dim=1, keepdim=True) / pushed.norm(dim=1, keepdim=True)
        return x_t - time * pixel_shuffle(pushed * kept, self.patch)

    @property
    def comfyui(self) -> ComfyUI | None:
        return ComfyUI(
            type="qwen_image",
            encoders=("qwen_2.5_vl_7b.safetensors",),
            vae="qwen_image_vae.safetensors",
            source=("Comfy-Org/Qwen-Image_ComfyUI",),
        )

    def usage(self) -> list[str]:
        return [f'images = student("a photo of a cat", {self._arguments()}).images']
