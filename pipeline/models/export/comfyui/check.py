"""Whether ComfyUI can make a student's images with its own nodes."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.diffusion.noise import Flow
from pipeline.models.comfyui import ComfyUI, Depths
from pipeline.models.network import Network
from pipeline.utils.errors import UserError

_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
"""Of Stable Diffusion's noise schedule."""


def check_comfyui(network: Network) -> None:
    """See that ComfyUI knows a student's model and steps.

    Raises:
        UserError: If it knows no model of the family, the student does not start at the noisiest
            time, its network is told rounded times, or ComfyUI has another VAE; of a UNet also if
            it has not Stable Diffusion's noise schedule, does not predict eps, guidance is an input
            of it, or it has more or fewer blocks than those that ComfyUI knows.
    """
    if problem := _problem(network, network.comfyui):
        raise UserError(
            f"export.comfyui: {problem}; docs/export.md says what can be exported: set it to false"
        )


def _problem(network: Any, comfyui: ComfyUI | None) -> str | None:
    """Of a student of any family."""
    if comfyui is None:
        return f"the student is a {network.title}, of which ComfyUI has no nodes of its own"
    if comfyui.depths and (problem := _unet_problem(network, comfyui)):
        return problem
    schedule, times = network.schedule, network.sampler.timesteps
    if times[0] != schedule.start:
        return f"the student starts at {times[0]:g}, not at {schedule.start:g}"
    if isinstance(schedule, Flow) and schedule.whole and not _whole(times, schedule.steps_table):
        return "the student is told times rounded to training steps"
    own = comfyui.vae is None and not comfyui.checkpoint
    return _vae_problem(network, comfyui) if own else None


def _vae_problem(network: Any, comfyui: ComfyUI) -> str | None:
    """Of the student's own VAE, whose scaling ComfyUI takes for granted."""
    if (kind := type(network.latents.vae).__name__) != "AutoencoderKL":
        return f"the student's VAE is {kind}, not AutoencoderKL"
    normaliser = network.latents.normaliser
    if (scaling := (normaliser.scale, normaliser.shift)) != comfyui.scaling:
        return f"the student's VAE has the scale and shift {scaling}, not {comfyui.scaling}"
    return None


def _whole(times: Sequence[float], table: int) -> bool:
    """Whether times are places in a table."""
    places = [time * table for time in times]
    return all(math.isclose(place, round(place), abs_tol=1e-4) for place in places)


def _unet_problem(network: Any, comfyui: ComfyUI) -> str | None:
    """Of one of Stable Diffusion, whose noise schedule ComfyUI takes for granted."""
    if network.backbone.config.time_cond_proj_dim:
        return "the student takes guidance as an input (time_cond_proj_dim)"
    if network.prediction != "epsilon":
        return f"the student predicts {network.prediction}, not epsilon"
    if not isinstance(network.latents.normaliser.scale, float):
        return "the student's VAE has latents_mean and latents_std"
    table = network.schedule.alphas_cumprod.double()
    own = (1 - _BETAS).cumprod(0)[: len(table)]
    if table.shape != own.shape or not torch.allclose(table, own, rtol=1e-3, atol=0):
        return "the noise schedule of the student is not Stable Diffusion's"
    if (depths := _depths(network.backbone)) not in comfyui.depths:
        return f"ComfyUI knows no UNet of these transformers down, in the middle, up: {depths}"
    return None


def _depths(unet: Any) -> Depths:
    """Of a `UNet2DConditionModel`."""
    down, up = (
        tuple(depth for block in blocks for depth in _of_block(block))
        for blocks in (unet.down_blocks, unet.up_blocks)
    )
    return down, max(_of_block(unet.mid_block), default=-2) or -1, up


def _of_block(block: Any) -> list[int]:
    """Transformers after each of its residual blocks; empty for no block."""
    if block is None:
        return []
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return [len(getattr(each, "transformer_blocks", ())) for each in attentions]
