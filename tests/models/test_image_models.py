"""Folders of models on images: what is read of them, and one clear line for what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.loading import load_denoiser
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.families.builders.unet2d import CLASSES
from tests.fixtures.tiny_models import save_tiny


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "it works on latents"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "its class_embed_type is timestep"),
        ("unet/config.json", {"out_channels": 6}, "it predicts a variance too"),
        (
            "model_index.json",
            {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]},
            "its noise is Flow",
        ),
    ],
)
def test_what_would_be_another_network_is_refused_by_name(tmp_path, file, values, message):
    folder = save_tiny(tmp_path / "model", "ddim-classes")
    changed(folder / file, **values)
    with pytest.raises(UserError, match=f"that is not supported: {message}"):
        load_denoiser(folder, "")


@pytest.mark.parametrize("version", [name for name in BUILDERS if BUILDERS[name].channels == 3])
def test_classes_are_those_of_the_folder(tmp_path, version):
    found = load_denoiser(save_tiny(tmp_path / "model", version), "").classes
    assert found == (None if BUILDERS[version].labels is None else CLASSES)
