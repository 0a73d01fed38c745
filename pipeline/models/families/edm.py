"""UNets inside EDM's preconditioning, or that of consistency models; and new ones."""

import diffusers
import torch

from pipeline.config import NetworkConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import EDM
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.schedulers import is_edm


@register_family
class EDMUNet(UNet2D):
    """A `UNet2DModel` on noise without a factor of the image, read as x0.

    Source: Karras et al., 2022, arXiv 2206.00364; Song et al., 2023, arXiv 2303.01469.
    """

    family = "edm"
    pipelines = ("ConsistencyModelPipeline",)
    takes = {EDM: ("edm", "edm_v", "consistency")}
    schedule: EDM

    @classmethod
    def reads(cls, folder: ModelFolder) -> bool:
        """Any pipeline of such a network."""
        return folder.network == "UNet2DModel" and is_edm(folder.scheduler)


def new_unet(
    network: NetworkConfig, shape: tuple[int, ...], classes: int | None, seed: int
) -> EDMUNet:
    """A small UNet in EDM's preconditioning, with fresh weights that follow from the seed.

    Args:
        network: Its widths and depths.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None for an unconditional network.
        seed: Of the initial weights.
    """
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator("weights", seed).initial_seed())
        unet = diffusers.UNet2DModel(
            sample_size=(height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(network.channels),
            layers_per_block=network.layers,
            down_block_types=tuple(
                "AttnDownBlock2D" if attends else "DownBlock2D" for attends in network.attention
            ),
            up_block_types=tuple(
                "AttnUpBlock2D" if attends else "UpBlock2D" for attends in network.attention[::-1]
            ),
            norm_num_groups=network.norm_groups,
            num_class_embeds=classes,
        )
    return EDMUNet(unet, EDM(), "edm")
