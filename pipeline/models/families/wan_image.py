"""Wan's image-to-video: the first frame of a video is an image beside its prompt."""

from dataclasses import replace
from typing import Any, ClassVar

import diffusers
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from pipeline.diffusion.condition import Condition
from pipeline.models.comfyui import PHOTO, ComfyUI
from pipeline.models.experts import TwoExperts
from pipeline.models.families.wan import Wan
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.frozen_pipeline import FrozenPipeline

_VISION = "clip_vision_h.safetensors"
"""Published beside the VAE."""


@register_family
class WanImage(Wan):
    """A `WanTransformer3DModel` that is given an image.

    Latents of the image, with nothing behind it, and a mask are channels beside x_t; Wan 2.1 is
    told what CLIP sees of it, too. Of Wan 2.2 TI2V 5B (`expand_timesteps`) the image's latents are
    the first ones of x_t and of x0, whatever is there, and their tokens' time is 0.
    """

    family = "wan-image"
    pipelines = ("WanImageToVideoPipeline",)
    widths: ClassVar = {**Wan.widths, "image_dim": {"image_encoder.hidden_size": 1}}
    beside = ("image_encoder", "image_processor")
    images = 1
    task = "image-to-video"

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if problem := super().problem(folder):
            return problem
        if folder.index.get("boundary_ratio") and folder.index.get("expand_timesteps"):
            return "its model_index.json has both boundary_ratio and expand_timesteps"
        takes, makes = (folder.backbone.get(f"{way}_channels", 16) for way in ("in", "out"))
        mask = folder.part("vae").get("scale_factor_temporal", 4)
        wanted = makes if folder.index.get("expand_timesteps") else 2 * makes + mask
        if takes != wanted:
            return f"its transformer takes {takes} channels, and with an image there are {wanted}"
        return None

    @classmethod
    def required(cls, folder: ModelFolder) -> set[str]:
        sees = folder.backbone.get("image_dim") is not None
        return super().required(folder) | set(cls.beside if sees else ())

    @staticmethod
    def channels(backbone: Any) -> int:
        return int(backbone.config.out_channels)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        # its own does the same, but fails where there is no ftfy
        parts = pipe.tokenizer, pipe.text_encoder, pipe.vae, pipe.scheduler
        return Wan.encode(diffusers.WanPipeline(*parts), texts, negative, device)

    @classmethod
    def encode_beside(
        cls,
        frozen: FrozenPipeline,
        size: tuple[int, ...],
        text: str,
        images: list[Image.Image],
        device: torch.device,
    ) -> Condition:
        pipe, (image,), (frames, height, width) = frozen.pipe, images, size
        pixels = pipe.video_processor.preprocess(image, height=height, width=width).to(device)
        first = pixels[:, :, None]
        if frozen.flags.get("expand_timesteps"):
            latents = frozen.vae.encode(first)
        else:
            known = frozen.vae.encode(pad(first, (0, 0, 0, 0, 0, frames - 1)))
            mask = known.new_zeros(1, frozen.vae.frames, *known.shape[2:])
            mask[:, :, 0] = 1
            latents = torch.cat([mask, known], dim=1)
        seen = {}
        if pipe.image_encoder is not None:
            seen["image_tokens"] = pipe.encode_image(image, device)
        prompt = cls.encode(pipe, [text], False, device)
        return Condition({**prompt.tensors, "image_latents": latents, **seen})

    @property
    def _replaces(self) -> bool:
        """Whether the image's latents take the place of the first ones."""
        return bool(self.frozen.flags.get("expand_timesteps"))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        x0 = super().forward(x_t, t, condition)
        return _begun(x0, condition) if self._replaces else x0

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        time, seen = self.position(t), condition.get("image_tokens")
        more = {} if seen is None else {"encoder_hidden_states_image": seen.to(x_t.dtype)}
        if not self._replaces:
            image = condition["image_latents"].to(x_t.dtype)
            return self.called(torch.cat([x_t, image], dim=1), time, condition, **more)
        tokens = self.tokens(self.backbone, x_t.shape[1:])
        of_image = torch.arange(tokens, device=x_t.device) < tokens // x_t.shape[2]
        return self.called(_begun(x_t, condition), time[:, None] * ~of_image, condition, **more)

    @property
    def comfyui(self) -> ComfyUI:
        """Its nodes take the middle of an image, in the proportion of what they make."""
        known, photo = super().comfyui, ("photo", 0)
        if self._replaces:
            kind, inputs = known.latents
            return replace(known, more=PHOTO, latents=(kind, {**inputs, "start_image": photo}))
        prompt = {"positive": known.told, "negative": known.told}
        inputs = {**prompt, "vae": ("vae", 0), "start_image": photo}
        more, vision = dict(PHOTO), None
        if self.backbone.config.image_dim is not None:
            reader = self.frozen.pipe.image_processor
            vision, crop = _VISION, "center" if reader.do_center_crop else "none"
            more["vision"] = ("CLIPVisionLoader", {"clip_name": vision})
            seen = {"clip_vision": ("vision", 0), "image": photo, "crop": crop}
            more["seen"] = ("CLIPVisionEncode", seen)
            inputs["clip_vision_output"] = ("seen", 0)
        return replace(
            known,
            vision=vision,
            latents=("WanImageToVideo", inputs),
            more=more,
            start=("latents", 2),
            told=("latents", 0),
        )

    def usage(self) -> list[str]:
        return [
            "from diffusers.utils import load_image",
            'image = load_image("photo.png")  # and the package ftfy',
            self._usage('image, "the cat runs"'),
        ]


@register_family
class WanImageExperts(TwoExperts, WanImage):
    """Two `WanTransformer3DModel` that are given an image, as in Wan 2.2 I2V A14B."""

    family = "wan-image-experts"


def _begun(latents: Tensor, condition: Condition) -> Tensor:
    """Latents (B, C, f, h, w) of which the image's are the first."""
    return torch.cat([condition["image_latents"].to(latents.dtype), latents[:, :, 1:]], dim=2)
