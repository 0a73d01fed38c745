"""Wan's image-to-video: what the image is to a video, and folders that are no such model."""

import json
import re
from pathlib import Path

import pytest
import torch

from pipeline.models.loading import load_teacher
from tests.families.builders.wan_image import BUILDERS
from tests.families.measures import refused
from tests.fixtures.denoise import denoise


@torch.no_grad()
def test_the_first_latents_are_the_images_whatever_noise_is_there(tiny_model, prompts):
    builder = BUILDERS["wan-image-small"]
    teacher = load_teacher(builder.teacher(tiny_model(builder), prompts))
    labels, x_t, t = builder.labels_of(teacher), builder.noise(), torch.tensor([0.9, 0.3])
    image = teacher.conditioner(labels, 2)["image_latents"]
    other = torch.cat([10 * torch.randn_like(x_t[:, :, :1]), x_t[:, :, 1:]], dim=2)
    found = [denoise(teacher, each, t, labels) for each in (x_t, other)]
    assert torch.equal(*found) and torch.equal(found[0][:, :, :1], image)
    assert not torch.equal(image[0], image[1])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "wan-image",
            {"expand_timesteps": True},
            "takes 10 channels, and with an image there are 4",
        ),
        ("wan-image-small", {"expand_timesteps": False}, "takes 4 channels, and .* there are 10"),
        (
            "wan-image-experts",
            {"expand_timesteps": True},
            "both boundary_ratio and expand_timesteps",
        ),
        ("wan-image", {"image_encoder": [None, None]}, "no image_encoder"),
    ],
)
def test_other_models_in_its_layout_are_refused(prompts, tmp_path, name, change, told):
    builder = BUILDERS[name]
    folder = Path(builder.save(tmp_path / "model"))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    assert re.search(told, refused(builder.teacher(folder, prompts)))
