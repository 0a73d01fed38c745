"""HunyuanVideo 1.5: one transformer for videos of prompts and of images, here without an image."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder, read_json
from pipeline.models.vae import VAE, ScaleShift, VideoVAE
from pipeline.models.video_network import VideoNetwork

_PLAIN = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0}
"""Settings of a guider under which it is the guidance of `pairs.guidance`."""


@register_family
class HunyuanVideo15(VideoNetwork):
    """A `HunyuanVideo15Transformer3DModel`: latents, those of an image, and which of these count.

    Source: Hunyuan Foundation Model Team, 2025, arXiv 2511.18870.
    """

    family = "hunyuan-video"
    pipelines = ("HunyuanVideo15Pipeline",)
    takes = {Flow: ("flow_prediction",)}
    chats = True
    vaes = ("AutoencoderKLHunyuanVideo15",)
    widths: ClassVar = {
        "text_embed_dim": {"text_encoder.hidden_size": 1},
        "text_embed_2_dim": {"text_encoder_2.hidden_size": 1},
    }
    pipeline_spacing = "trailing"

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        config = folder.backbone
        if config.get("use_meanflow"):
            return "it is told a second time (use_meanflow), which its pipeline does not give"
        if config.get("patch_size_t", 1) != 1:
            return f"its patches are of {config['patch_size_t']} frames (patch_size_t)"
        if config.get("in_channels", 65) != 2 * config.get("out_channels", 32) + 1:
            return "its in_channels are not those of two latents and a mask"
        return super().problem(folder) or cls._guider_problem(folder)

    @classmethod
    def _guider_problem(cls, folder: ModelFolder) -> str | None:
        """Which guider it has, if not the plain one."""
        match folder.index["guider"]:
            case ["diffusers", "ClassifierFreeGuidance"]:
                pass
            case [_, kind]:
                return f"its guider is {kind}, not ClassifierFreeGuidance"
        told = read_json(folder.path / "guider", "guider_config.json")
        changed = [key for key, plain in _PLAIN.items() if told.get(key, plain) != plain]
        return f"its guider has a {changed[0]} of its own" if changed else None

    @staticmethod
    def channels(backbone: Any) -> int:
        return int(backbone.config.out_channels)

    @classmethod
    def own_size(cls, backbone: Any, vae: VAE) -> tuple[int, ...]:
        """121 frames, as 16 to 9, of about as many pixels as a square of the target size."""
        from diffusers.pipelines.hunyuan_video1_5 import image_processor  # of its pipeline alone

        processor = image_processor.HunyuanVideo15ImageProcessor(vae_scale_factor=vae.factor)
        sides = processor.calculate_default_height_width(9, 16, backbone.config.target_size)
        return 121, *map(int, sides)

    @classmethod
    def vae(cls, network: Any) -> VAE:
        return VideoVAE(network, ScaleShift(network.config.scaling_factor))

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, mask, glyphs, glyph_mask = pipe.encode_prompt(
            texts, device=device, batch_size=len(texts)
        )
        kept = mask[0] > 0  # of one prompt, so that no token is padding
        text = {"tokens": tokens[:, kept], "mask": mask[:, kept]}
        return Condition({**text, "tokens_glyphs": glyphs, "mask_glyphs": glyph_mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        no_image = x_t.new_zeros(len(x_t), 1, self.backbone.config.image_embed_dim)
        with _read_masks(x_t):
            output: Tensor = self.backbone(
                hidden_states=torch.cat([x_t, torch.zeros_like(x_t), 0 * x_t[:, :1]], dim=1),
                image_embeds=no_image,  # masked, so one token does for all of an image's
                timestep=self.position(t),
                encoder_hidden_states=condition["tokens"].to(x_t.dtype),
                encoder_attention_mask=condition["mask"],
                encoder_hidden_states_2=condition["tokens_glyphs"].to(x_t.dtype),
                encoder_attention_mask_2=condition["mask_glyphs"],
            ).sample
        return output

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """The video's tokens: a block gives those of the text after them."""
        return super().of_image(output[:1], x_t, condition)

    def pipeline(self) -> "diffusers.DiffusionPipeline":
        made = super().pipeline()
        made.register_modules(guider=made.guider.new(guidance_scale=1.0))
        return made

    def usage(self) -> list[str]:
        return [f'videos = student("a photo of a cat", {self._arguments()}).frames']


def _read_masks(x_t: Tensor) -> AbstractContextManager[Any]:
    """Masks are read while the network runs, which no tensor on the meta device can be."""
    return _AllTokens() if x_t.is_meta else nullcontext()


class _AllTokens(TorchFunctionMode):
    """All tokens count, and there is no image."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__:
            return True
        if func is Tensor.__invert__:
            return slice(0)
        if func is Tensor.__getitem__ and getattr(args[1], "dtype", None) is torch.bool:
            return args[0]
        return func(*args, **(kwargs or {}))
