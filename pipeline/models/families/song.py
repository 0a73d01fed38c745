"""DDPM++ inside EDM's preconditioning: a network that diffusers has not."""

from typing import Any

from torch import nn

from pipeline.models.families.edm import EDMUNet
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder


@register_family
class Song(EDMUNet):
    """A `SongUNet`; see `EDMUNet`."""

    family = "song"
    pipelines = ("ConsistencyModelPipeline",)

    @classmethod
    def reads(cls, folder: ModelFolder) -> bool:
        """Any pipeline of such a network."""
        return folder.network == "SongUNet"

    @staticmethod
    def network(folder: ModelFolder) -> Any:
        from pipeline.models.song_unet import SongUNet  # only here: it loads much of diffusers

        return SongUNet

    @property
    def imports(self) -> tuple[str, ...]:
        return ("import pipeline.models.song_unet  # of ray-dmd: diffusers has no such network",)

    def stages(self) -> list[str]:
        return [f"{self.part}.decoder.1"]

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        return {
            f"{self.part}.conv_norm_out": nn.Identity(),
            f"{self.part}.conv_out": nn.Identity(),
            f"{self.part}.decoder": nn.ModuleList(self.backbone.decoder[:2]),
        }
