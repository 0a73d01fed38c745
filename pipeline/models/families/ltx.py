"""LTX-Video: a transformer on tokens of few, deep latents of a video."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import ComfyUI
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.vae import VAE, ScaleShift, VideoVAE
from pipeline.models.video_network import VideoNetwork

FRAME_RATE = 25
"""Frames a second, of which the pipeline tells the network where no other number is given."""
_NAMES = {
    "norm_q": "q_norm",
    "norm_k": "k_norm",
    "proj_in": "patchify_proj",
    "time_embed": "adaln_single",
}
"""ComfyUI's."""


class LTXVAE(VideoVAE):
    """An `AutoencoderKLLTXVideo`: mean and deviation of latents are among its weights."""

    def __init__(self, vae: Any) -> None:
        scale = vae.config.scaling_factor / vae.latents_std
        super().__init__(vae, ScaleShift(tuple(scale.tolist()), tuple(vae.latents_mean.tolist())))

    def made_of(self, latents: Tensor) -> Tensor:
        """Images; a decoder that is told a time is told 0, for latents without noise."""
        if not self.vae.config.timestep_conditioning:
            return super().made_of(latents)
        time = latents.new_zeros(1)  # one by one: its own slices mix up videos and times
        return torch.cat([self.vae.decode(each, time).sample for each in latents.split(1)])


@register_family
class LTX(VideoNetwork):
    """An `LTXVideoTransformer3DModel`.

    Source: HaCohen et al., 2024, arXiv 2501.00103.
    """

    family = "ltx"
    pipelines = ("LTXPipeline",)
    takes = {Flow: ("flow_prediction",)}
    vaes = ("AutoencoderKLLTXVideo",)
    widths: ClassVar = {"caption_channels": {"text_encoder.hidden_size": 1}}
    shifts_by_size = True
    pipeline_spacing = "trailing"
    names_flow_sigmas = True
    own = (161, 512, 704)

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if problem := super().problem(folder):
            return problem
        if any(folder.backbone.get(key, 1) != 1 for key in ("patch_size", "patch_size_t")):
            return (
                "its tokens are of several latents (patch_size), which its pipeline makes none of"
            )
        if any(folder.part("vae").get("decoder_inject_noise", ())):
            return "its VAE draws noise while it decodes (decoder_inject_noise)"
        return None

    @classmethod
    def vae(cls, network: Any) -> VAE:
        return LTXVAE(network)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        tokens, mask, _, _ = pipe.encode_prompt(
            texts, do_classifier_free_guidance=False, device=device
        )
        return Condition({"tokens": tokens, "mask": mask})

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        frames, height, width = x_t.shape[2:]
        factor = self.latents.factor
        output: Tensor = self.backbone(
            hidden_states=x_t.flatten(2).mT,
            encoder_hidden_states=condition["tokens"].to(x_t.dtype),
            timestep=self.position(t),
            encoder_attention_mask=condition["mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(self.latents.frames / FRAME_RATE, factor, factor),
        ).sample
        return output.mT.unflatten(2, (frames, height, width))

    @property
    def comfyui(self) -> ComfyUI | None:
        """The VAE of its versions is published in their checkpoints alone."""
        prompt = ("prompt", 0)
        told = {"positive": prompt, "negative": prompt, "frame_rate": float(FRAME_RATE)}
        return ComfyUI(
            type="ltxv",
            encoders=("t5xxl_fp16.safetensors",),
            checkpoint=True,
            source=("comfyanonymous/flux_text_encoders",),
            latents=("EmptyLTXVLatentVideo", {}),
            more={"told": ("LTXVConditioning", told)},
            told=("told", 0),
            fps=FRAME_RATE,
            names=_NAMES,
        )
