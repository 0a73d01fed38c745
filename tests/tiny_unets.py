"""Tiny models on images, saved by diffusers itself in the layout of the real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    UNet2DModel,
)

CLASSES = 3


def unet(classes: int | None = None) -> UNet2DModel:
    """On 8x8 images in colours."""
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,  # 8 would be one per channel and wipe out time and class
        num_class_embeds=classes,
    )


UNETS: dict[str, Callable[[], Any]] = {
    "ddpm": lambda: DDPMPipeline(unet(), DDPMScheduler(clip_sample=False)),
    "ddim": lambda: DDIMPipeline(
        unet(),
        DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False
        ),
    ),
    "ddim-classes": lambda: ConsistencyModelPipeline(
        unet(CLASSES), DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    ),
    "edm": lambda: ConsistencyModelPipeline(unet(), EDMEulerScheduler(sigma_max=60.0)),
    "edm-classes": lambda: ConsistencyModelPipeline(
        unet(CLASSES), EDMDPMSolverMultistepScheduler(sigma_data=0.4)
    ),
    "consistency": lambda: ConsistencyModelPipeline(
        unet(CLASSES), CMStochasticIterativeScheduler()
    ),
}
"""DDPM (flat, as google/ddpm-* are), DDIM, EDM, and OpenAI's consistency models."""


def save_unet(folder: Path, kind: str, seed: int = 0) -> Path:
    """Save one with random weights."""
    torch.manual_seed(seed)
    UNETS[kind]().save_pretrained(folder)
    if kind == "ddpm":
        for part in (folder / "unet", folder / "scheduler"):
            for file in part.iterdir():
                file.rename(folder / file.name)
            part.rmdir()
    return folder
