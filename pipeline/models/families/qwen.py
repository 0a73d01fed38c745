"""Qwen-Image: Flux's latents and times, prompts read by a model of text and images; its edits."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.diffusion import guidance
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import expand
from pipeline.models.comfyui import PHOTO, PROMPT, ComfyUI
from pipeline.models.families.flux import Flux
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.frozen_pipeline import FrozenPipeline
from pipeline.models.vae import VAE, FrameVAE

_AREA = 1024 * 1024
"""Pixels of an image that is edited, about, as the pipelines bring it to their VAE."""


@register_family
class QwenImage(Flux):
    """A `QwenImageTransformer2DModel`.

    Source: Wu et al., 2025, arXiv 2508.02324.
    """

    family = "qwen"
    pipelines = ("QwenImagePipeline",)
    names_flow_sigmas = True
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
        images = [x_t, *self.beside_of(condition)]
        patches = [pixel_unshuffle(each.to(x_t.dtype), self.patch) for each in images]
        sides = [patch.shape[2:] for patch in patches]
        output = self.backbone(
            hidden_states=torch.cat([patch.flatten(2) for patch in patches], dim=2).mT,
            timestep=t,
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
            encoder_hidden_states_mask=condition["mask"],
            img_shapes=[[(1, height, width) for height, width in sides]] * len(x_t),
        ).sample
        made = output[:, : sides[0].numel()].mT.unflatten(2, sides[0])
        return pixel_shuffle(made, self.patch)

    @staticmethod
    def beside_of(condition: Condition) -> Iterable[Tensor]:
        """Latents (B, C, h, w) of the images beside prompts, which join those that are made."""
        return ()

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
    def comfyui(self) -> ComfyUI:
        return ComfyUI(
            type="qwen_image",
            encoders=("qwen_2.5_vl_7b.safetensors",),
            vae="qwen_image_vae.safetensors",
            source=("Comfy-Org/Qwen-Image_ComfyUI",),
        )

    def usage(self) -> list[str]:
        return [f'images = student("a photo of a cat", {self._arguments()}).images']


@register_family
class QwenImageEdit(QwenImage):
    """Qwen-Image-Edit: the latents of an image join those that are made of it.

    The encoder sees the image beside the prompt.

    Attributes:
        seen_area: Pixels of an image, about, as the encoder of prompts sees it.
        encodes: ComfyUI's node of a prompt beside an image, and its input of the image.
    """

    family = "qwen-edit"
    pipelines = ("QwenImageEditPipeline",)
    beside = ("processor",)
    images = 1
    sees_images = True
    task = "image-to-image"
    seen_area: ClassVar[int] = _AREA
    encodes: ClassVar = ("TextEncodeQwenImageEdit", "image")

    @classmethod
    def own_size(cls, backbone: Any, vae: VAE) -> tuple[int, ...]:
        return 1024, 1024

    @classmethod
    def encode_beside(
        cls,
        frozen: FrozenPipeline,
        size: tuple[int, ...],
        text: str,
        images: list[Image.Image],
        device: torch.device,
    ) -> Condition:
        pipe, reader = frozen.pipe, frozen.pipe.image_processor
        sides, seen_sides = (_near(pipe, area, size) for area in (_AREA, cls.seen_area))
        seen = [reader.resize(each, *seen_sides) for each in images]
        tokens, _ = pipe.encode_prompt([text], image=seen, device=device)
        pixels = torch.cat([reader.preprocess(reader.resize(each, *sides)) for each in images])
        return Condition(
            {
                "tokens": tokens,
                "mask": tokens.new_ones(tokens.shape[:2], dtype=torch.int64),
                "image_latents": frozen.vae.encode(pixels.to(device))[None],
            }
        )

    @staticmethod
    def beside_of(condition: Condition) -> Iterable[Tensor]:
        return condition["image_latents"].unbind(1)

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        made = x_t.shape[2] * x_t.shape[3] // self.patch**2
        return super().of_image(output, x_t, condition)[:, :made]

    @property
    def call_settings(self) -> dict[str, Any] | None:
        """With the size, which the pipeline would take from the image."""
        settings = super().call_settings
        return settings and settings | dict(zip(self.axes, self.size, strict=True))

    @property
    def comfyui(self) -> ComfyUI:
        """The image as it is brought to the VAE, from where its node brings it to the encoder."""
        high, wide = _near(self.frozen.pipe, _AREA, self.size)
        scaled = {"image": ("photo", 0), "width": wide, "height": high}
        scaled |= {"upscale_method": "lanczos", "crop": "center"}
        kind, image = self.encodes
        told = {"prompt": PROMPT, "vae": ("vae", 0), image: ("scaled", 0)}
        more = {**PHOTO, "scaled": ("ImageScale", scaled)}
        known = replace(super().comfyui, prompt=(kind, told), more=more)
        if not self.backbone.config.zero_cond_t:
            return known
        method = {"reference_latents_method": "index_timestep_zero"}
        return known.telling("FluxKontextMultiReferenceLatentMethod", **method)

    def usage(self) -> list[str]:
        return [
            "from diffusers.utils import load_image",
            'image = load_image("photo.png")',
            f'images = student(image, "make the cat blue", {self._arguments()}).images',
        ]


@register_family
class QwenImageEditPlus(QwenImageEdit):
    """Qwen-Image-Edit 2509 and later: of one image or several, which the encoder sees small."""

    family = "qwen-edit-plus"
    pipelines = ("QwenImageEditPlusPipeline",)
    images = 3
    seen_area = 384 * 384
    encodes = ("TextEncodeQwenImageEditPlus", "image1")


def _near(pipe: Any, area: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in about the proportion of a size and of about an area, by its own rule."""
    height, width = size
    wide, high, *_ = sys.modules[type(pipe).__module__].calculate_dimensions(area, width / height)
    return high, wide
