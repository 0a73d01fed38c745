"""UNets in EDM's preconditioning, and OpenAI's consistency models."""

from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
)

from pipeline.models.song_unet import SongUNet
from tests.families.builder import Builder, OnImages
from tests.families.builders.unet2d import CLASSES, unet

WRONG = {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}


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
    "edm": OnImages(
        family="edm",
        make=lambda: ConsistencyModelPipeline(unet(), EDMEulerScheduler(sigma_max=60.0)),
        wrong=WRONG,
    ),
    "edm-classes": OnImages(
        family="edm",
        make=lambda: ConsistencyModelPipeline(
            unet(CLASSES), EDMDPMSolverMultistepScheduler(sigma_data=0.4)
        ),
        labels=(2, 0),
        solver="dpmpp_2m",
        wrong=WRONG,
    ),
    "consistency": OnImages(
        family="edm",
        make=lambda: ConsistencyModelPipeline(unet(CLASSES), CMStochasticIterativeScheduler()),
        labels=(2, 0),
        solver="student",
        wrong=WRONG,
    ),
    "song": OnImages(
        family="edm",
        make=lambda: ConsistencyModelPipeline(song(), EDMEulerScheduler()),
        wrong=WRONG,
    ),
}
