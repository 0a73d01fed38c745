"""What the tests of networks share: one tiny UNet and the folder of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import NetworkConfig
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.families.unet2d import UNet2D

# Groups of one channel would wipe out what time and class add to it.
TINY = NetworkConfig(channels=(8, 8), attention=(False, True), norm_groups=4)


@pytest.fixture
def tiny() -> Callable[..., UNet2D]:
    """Makes a UNet in EDM's preconditioning on 8x8 images."""

    def make(channels: int = 1, classes: int | None = 3, seed: int = 0) -> UNet2D:
        return new_unet(TINY, (channels, 8, 8), classes, seed).eval()

    return make


@pytest.fixture
def folder(tiny: Callable[..., UNet2D], tmp_path: Path) -> Path:
    """A saved tiny UNet."""
    save_denoiser(tiny(), tmp_path / "model", {"seed": 0})
    return tmp_path / "model"
