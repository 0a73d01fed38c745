"""A family of this file alone keeps all laws: nothing else knows it."""

from collections.abc import Iterator

import pytest
from diffusers import DDIMPipeline, DDIMScheduler

from pipeline.models.families.unet2d import UNet2D
from pipeline.models.family import FAMILIES, register_family
from pipeline.models.folder import ModelFolder
from tests.families.builder import OnImages
from tests.families.builders.unet2d import FLOW, unet
from tests.families.conformance import Conformance


class Toy(UNet2D):
    """UNets that centre what they are given; diffusers' pipeline calls them like others."""

    family = "toy"

    @classmethod
    def reads(cls, folder: ModelFolder) -> bool:
        return super().reads(folder) and bool(folder.backbone.get("center_input_sample"))


def toy() -> DDIMPipeline:
    network = unet()
    network.register_to_config(center_input_sample=True)
    return DDIMPipeline(network, DDIMScheduler(clip_sample=False))


class TestToy(Conformance):
    builders = {"toy": OnImages(family="toy", make=toy, wrong=FLOW)}

    @pytest.fixture(autouse=True)
    def _registered(self) -> Iterator[None]:
        register_family(Toy)
        yield
        del FAMILIES[Toy.family]
