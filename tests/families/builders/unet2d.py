"""UNets on images: DDPM (flat, as google/ddpm-* are) and DDIM."""

from dataclasses import dataclass
from pathlib import Path

from diffusers import (
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    UNet2DModel,
)

from tests.families.builder import Builder, OnImages

CLASSES = 3
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def unet(classes: int | None = None, size: int | tuple[int, int] = 8) -> UNet2DModel:
    """On 8x8 images in colours."""
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,  # 8 would be one per channel and wipe out time and class
        num_class_embeds=classes,
    )


@dataclass(frozen=True, kw_only=True)
class Flat(OnImages):
    def save(self, folder: Path, seed: int = 0) -> Path:
        super().save(folder, seed)
        for part in (folder / "unet", folder / "scheduler"):
            for file in part.iterdir():
                file.rename(folder / file.name)
            part.rmdir()
        return folder


V = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "clip_sample": False}
TRAILING = {"clip_sample": False, "timestep_spacing": "trailing"}
BUILDERS: dict[str, Builder] = {
    "ddpm": Flat(
        family="unet2d",
        make=lambda: DDPMPipeline(unet(), DDPMScheduler(clip_sample=False)),
        few={"early": ((399,), True), "four": ((999, 749, 499, 249), True)},
        wrong=FLOW,
    ),
    "ddim": OnImages(
        family="unet2d",
        make=lambda: DDIMPipeline(unet(size=(8, 8)), DDIMScheduler(**V)),
        few={"two": ((999, 499), False)},
        wrong=FLOW,
    ),
    "ddim-classes": OnImages(
        family="unet2d",
        make=lambda: ConsistencyModelPipeline(unet(CLASSES), DDIMScheduler(**TRAILING)),
        labels=(2, 0),
        wrong=FLOW,
    ),
}
