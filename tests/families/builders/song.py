"""DDPM++ as NVIDIA has it."""

from diffusers import ConsistencyModelPipeline, EDMEulerScheduler

from pipeline.models.song_unet import SongUNet
from tests.families.builder import Builder, OnImages
from tests.families.builders.unet2d import FLOW


def song() -> SongUNet:
    return SongUNet(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        stem_channels=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        attention=(False, True),
        time_embedding_dim=16,
    )


BUILDERS: dict[str, Builder] = {
    "song": OnImages(
        family="song",
        make=lambda: ConsistencyModelPipeline(song(), EDMEulerScheduler()),
        wrong=FLOW,
    ),
}
