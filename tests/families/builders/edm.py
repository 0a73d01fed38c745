"""UNets in EDM's preconditioning, and OpenAI's consistency models."""

from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
)

from tests.families.builder import Builder, OnImages
from tests.families.builders.unet2d import CLASSES, unet

WRONG = {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}


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
}
