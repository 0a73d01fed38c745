"""FLUX.2: a transformer on patches of latents, told of prompts by layers of a language model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow, Schedule
from pipeline.models.comfyui import ComfyUI
from pipeline.models.families.flux import COMFYUI, Flux
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.schedulers import completed
from pipeline.models.vae import VAE, ScaleShift

_PATCH = 2
"""Latents of the VAE to one of the model, in height and in width."""
_STEPS = 50
"""Of the pipeline, where it is told no number."""
_NAMES = {
    **COMFYUI,
    "transformer_blocks.*.ff.linear_in": "double_blocks.*.img_mlp.0",
    "transformer_blocks.*.ff.linear_out": "double_blocks.*.img_mlp.2",
    "transformer_blocks.*.ff_context.linear_in": "double_blocks.*.txt_mlp.0",
    "transformer_blocks.*.ff_context.linear_out": "double_blocks.*.txt_mlp.2",
    "single_transformer_blocks.*.attn.to_qkv_mlp_proj": "single_blocks.*.linear1",
    "single_transformer_blocks.*.attn.to_out": "single_blocks.*.linear2",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""ComfyUI's."""
_COMFYUI: dict[str, Any] = {
    "type": "flux2",
    "vae": "flux2-vae.safetensors",
    "latents": ("EmptyFlux2LatentImage", {}),
    "names": _NAMES,
    "swapped": ("norm_out.linear",),
}
"""Of all of FLUX.2."""
_QWEN3_4B = 2560
"""Width of the smaller klein's text encoder."""


@register_family
class Flux2(Flux):
    """FLUX.2 klein: a `Flux2Transformer2DModel` without an input for guidance, with Qwen3.

    Its latents are patches of the VAE's. A klein that was distilled to a few steps knows no
    guidance: its pipeline applies none.

    Source: Black Forest Labs, 2025, and diffusers' `Flux2KleinPipeline`.
    """

    family = "flux2"
    pipelines = ("Flux2KleinPipeline",)
    vaes = ("AutoencoderKLFlux2",)
    widths: ClassVar = {"joint_attention_dim": {"text_encoder.hidden_size": 3}}
    patch = 1
    chats = True

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {"is_distilled": index.get("is_distilled", False)}

    @staticmethod
    def guidable(backbone: Any, flags: Mapping[str, Any]) -> bool:
        return not flags["is_distilled"]

    @classmethod
    def read_schedule(cls, config: Mapping[str, Any], tokens: int) -> tuple[Schedule, str]:
        schedule, prediction = super().read_schedule(config, tokens)
        config = completed(config)
        if isinstance(schedule, Flow) and config.get("use_dynamic_shifting"):
            linear = config.get("time_shift_type") == "linear"
            by_steps = _ShiftBySteps(tokens, linear, schedule.respaced)
            schedule = replace(schedule, shift=by_steps.shift(_STEPS), respaced=by_steps)
        return schedule, prediction

    @classmethod
    def vae(cls, network: Any) -> VAE:
        return _PatchVAE(network)

    @staticmethod
    def channels(backbone: Any) -> int:
        return int(backbone.config.in_channels)

    @classmethod
    def own_side(cls, backbone: Any) -> int:
        return 64

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, _ = pipe.encode_prompt(texts, device=device)
        return Condition({"tokens": tokens})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        tokens, (height, width) = condition["tokens"], x_t.shape[2:]
        output = self.backbone(
            hidden_states=x_t.flatten(2).mT,
            timestep=t,
            guidance=self._guidance(x_t),
            encoder_hidden_states=tokens.to(x_t.dtype),
            txt_ids=_places(1, 1, 1, tokens.shape[1], like=x_t),
            img_ids=_places(1, height, width, 1, like=x_t),
        ).sample
        return output.mT.unflatten(2, (height, width))

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """A block of one stream has the text's tokens before the image's."""
        found = super().of_image(output, x_t, condition)
        return found if isinstance(output, tuple) else found[:, condition["tokens"].shape[1] :]

    @property
    def comfyui(self) -> ComfyUI | None:
        size = "4b" if self.backbone.config.joint_attention_dim <= 3 * _QWEN3_4B else "8b"
        klein = "4b" if size == "4b" else "9b"
        source = f"Comfy-Org/vae-text-encorder-for-flux-klein-{klein}"
        return ComfyUI(**_COMFYUI, encoders=(f"qwen_3_{size}.safetensors",), source=(source,))

    def usage(self) -> list[str]:
        return [self._usage('prompt="a photo of a cat"')]  # the pipeline's first one is an image


@register_family
class Flux2Dev(Flux2):
    """FLUX.2 dev: guidance is an input of the network; Mistral 3 reads prompts, in a chat.

    Source: Black Forest Labs, 2025, and diffusers' `Flux2Pipeline`.
    """

    family = "flux2-dev"
    pipelines = ("Flux2Pipeline",)

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if not folder.backbone.get("guidance_embeds", True):
            return "its transformer has no guidance_embeds, as a klein: copy the model's own there"
        return super().problem(folder)

    @classmethod
    def fingerprint_settings(cls, teacher: TeacherConfig, backbone: Mapping[str, Any]) -> str:
        return str(teacher.embedded_guidance)

    @staticmethod
    def guidable(backbone: Any, flags: Mapping[str, Any]) -> bool:
        return False

    @property
    def comfyui(self) -> ComfyUI | None:
        encoders, source = ("mistral_3_small_flux2_bf16.safetensors",), ("Comfy-Org/flux2-dev",)
        known = ComfyUI(**_COMFYUI, encoders=encoders, source=source)
        return known.telling("FluxGuidance", guidance=self.embedded_guidance)

    def usage(self) -> list[str]:
        return [self._usage('prompt="a photo of a cat"', self.embedded_guidance)]


class _Patches(ScaleShift):
    """As `ScaleShift`, for patches of the VAE's latents, whose numbers become channels."""

    def normalise(self, latents: Tensor) -> Tensor:
        return super().normalise(pixel_unshuffle(latents, _PATCH))

    def restore(self, latents: Tensor) -> Tensor:
        return pixel_shuffle(super().restore(latents), _PATCH)


class _PatchVAE(VAE):
    """Patches of latents, brought to unit variance by the statistics of the VAE's batch norm.

    Args:
        vae: An `AutoencoderKLFlux2`.
    """

    def __init__(self, vae: Any) -> None:
        scale = (vae.bn.running_var + vae.config.batch_norm_eps).rsqrt()
        shift = vae.bn.running_mean
        super().__init__(vae, _Patches(tuple(scale.tolist()), tuple(shift.tolist())))

    @property
    def channels(self) -> int:
        return _PATCH**2 * super().channels

    @property
    def factor(self) -> int:
        return _PATCH * super().factor


@dataclass(frozen=True)
class _ShiftBySteps:
    """Makes of times with the shift of `_STEPS` steps those with the shift of their own number.

    Two shifts, one after the other, are one: their product.

    Args:
        tokens: Of an image.
        linear: Whether mu is the shift itself, or its logarithm.
        rest: What the sampler makes of the times then.
    """

    tokens: int
    linear: bool
    rest: Callable[[Tensor], Tensor] | None

    def shift(self, steps: int) -> float:
        """The pipeline's, for so many steps."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        mu = compute_empirical_mu(self.tokens, steps)
        return mu if self.linear else math.exp(mu)

    def __call__(self, times: Tensor) -> Tensor:
        more = Flow(self.shift(len(times)) / self.shift(_STEPS))
        shifted = more.time_from_fraction(times)
        return self.rest(shifted) if self.rest else shifted


def _places(*lengths: int, like: Tensor) -> Tensor:
    """Of every token on every axis, (product of the lengths, axes)."""
    return torch.cartesian_prod(*(torch.arange(each, device=like.device) for each in lengths))
