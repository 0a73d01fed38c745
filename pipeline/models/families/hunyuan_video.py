"""HunyuanVideo 1.5: one transformer for videos of prompts and of images, here without an image."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import ComfyUI
from pipeline.models.families.flux import COMFYUI
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder, read_json
from pipeline.models.vae import VAE, ScaleShift, VideoVAE
from pipeline.models.video_network import VideoNetwork

_PLAIN = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0}
"""Settings of a guider under which it is the guidance of `pairs.guidance`."""

_TEXT, _REFINER = "context_embedder", "context_embedder.token_refiner.refiner_blocks.*"
_OWN = "txt_in.individual_token_refiner.blocks.*"
_NAMES = {
    **{f"{_REFINER}.attn.to_{each}": f"{_OWN}.self_attn.qkv" for each in "qkv"},
    f"{_REFINER}.attn.to_out.0": f"{_OWN}.self_attn.proj",
    f"{_REFINER}.ff.net.0.proj": f"{_OWN}.mlp.0",
    f"{_REFINER}.ff.net.2": f"{_OWN}.mlp.2",
    f"{_REFINER}.norm_out.linear": f"{_OWN}.adaLN_modulation.1",
    _REFINER: _OWN,
    f"{_TEXT}.time_text_embed.timestep_embedder.linear_1": "txt_in.t_embedder.in_layer",
    f"{_TEXT}.time_text_embed.timestep_embedder.linear_2": "txt_in.t_embedder.out_layer",
    f"{_TEXT}.time_text_embed.text_embedder.linear_1": "txt_in.c_embedder.in_layer",
    f"{_TEXT}.time_text_embed.text_embedder.linear_2": "txt_in.c_embedder.out_layer",
    f"{_TEXT}.proj_in": "txt_in.input_embedder",
    f"{_TEXT}_2.norm": "byt5_in.layernorm",
    **{f"{_TEXT}_2.linear_{each}": f"byt5_in.fc{each}" for each in "123"},
    "image_embedder.norm_in": "vision_in.proj.0",
    "image_embedder.linear_1": "vision_in.proj.1",
    "image_embedder.linear_2": "vision_in.proj.3",
    "image_embedder.norm_out": "vision_in.proj.4",
    "time_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "cond_type_embed": "cond_type_embedding",
    "x_embedder": "img_in",
    **{name: own for name, own in COMFYUI.items() if name.startswith("transformer_blocks")},
    "transformer_blocks.*.norm1.linear": "double_blocks.*.img_mod.lin",
    "transformer_blocks.*.norm1_context.linear": "double_blocks.*.txt_mod.lin",
    "transformer_blocks.*.ff.net.0.proj": "double_blocks.*.img_mlp.0",
    "transformer_blocks.*.ff.net.2": "double_blocks.*.img_mlp.2",
    "transformer_blocks.*.ff_context.net.0.proj": "double_blocks.*.txt_mlp.0",
    "transformer_blocks.*.ff_context.net.2": "double_blocks.*.txt_mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""ComfyUI's."""


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
    names_flow_sigmas = True

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
        told = cls._guider(folder)
        changed = [key for key, plain in _PLAIN.items() if told.get(key, plain) != plain]
        return f"its guider has a {changed[0]} of its own" if changed else None

    @staticmethod
    def _guider(folder: ModelFolder) -> dict[str, Any]:
        return read_json(folder.path / "guider", "guider_config.json")

    @classmethod
    def own_guidance(cls, folder: ModelFolder) -> float:
        return float(cls._guider(folder).get("guidance_scale", 7.5))

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
                timestep=self.position(t).to(x_t.dtype),
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

    @property
    def comfyui(self) -> ComfyUI | None:
        return ComfyUI(
            type="hunyuan_video_15",
            encoders=("qwen_2.5_vl_7b.safetensors", "byt5_small_glyphxl_fp16.safetensors"),
            vae="hunyuanvideo15_vae_fp16.safetensors",
            source=("Comfy-Org/HunyuanVideo_1.5_repackaged",),
            latents=("EmptyHunyuanVideo15Latent", {}),
            fps=24,
            names=_NAMES,
            swapped=("norm_out.linear",),
        )

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
