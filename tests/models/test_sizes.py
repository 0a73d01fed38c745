"""What a backbone's `sample_size` may be: diffusers' pipelines take one number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import TeacherConfig
from pipeline.models.export.card import usage
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student, new_student
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny
from tests.models.conftest import TINY

OF_IMAGES = ("ddpm", "ddim-classes", "edm", "consistency", "song")
ON_LATENTS = ("sd1", "sdxl", "dit", "pixart-sigma", "sd3", "sana")


def sized(folder: Path, version: str, size: Any) -> TeacherConfig:
    """A tiny model whose backbone's config says another size."""
    save_tiny(folder, version)
    files = [*folder.glob("config.json"), *folder.glob("unet/*.json"), *folder.glob("tran*/*.json")]
    config = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(config | {"sample_size": size}))
    return TeacherConfig(output=str(folder))


@pytest.mark.parametrize("version", [*OF_IMAGES, "sd1", "sdxl"])
def test_two_equal_numbers_are_one(tmp_path: Path, version: str) -> None:
    """Diffusers' own transformers do not open with two."""
    teacher = load_teacher(sized(tmp_path / "model", version, [8, 8]))
    assert teacher.shape[1:] == (8, 8)
    student = new_student(teacher, None, 0)
    assert student.call_settings == {"num_inference_steps": 1}
    save_denoiser(student, tmp_path / "student", {})
    saved = json.loads((tmp_path / "student" / "unet" / "config.json").read_text())
    assert saved["sample_size"] == 8


@pytest.mark.parametrize("size", [[8, 16], None])
@pytest.mark.parametrize("version", [*OF_IMAGES, *ON_LATENTS])
def test_two_numbers_or_none_are_refused(tmp_path: Path, version: str, size: Any) -> None:
    config = sized(tmp_path / "model", version, size)
    with pytest.raises(UserError, match=r"its sample_size is (\[8, 16\]|null), .*one num") as told:
        load_teacher(config)
    assert "\n" not in str(told.value)


def test_the_student_of_a_formula_may_be_of_two_and_its_card_says_so(tmp_path: Path) -> None:
    student = new_unet(TINY, (3, 8, 16), None, 0)
    save_denoiser(student, tmp_path / "student", {})
    assert "diffusers cannot" in usage(student, "x")
    noise = torch.randn(2, 3, 8, 16)
    again = load_student(tmp_path / "student")
    torch.testing.assert_close(
        sample_student(again, noise, None), sample_student(student, noise, None)
    )


def test_a_table_of_positions_is_the_largest_size_and_its_own_too(tmp_path: Path) -> None:
    config = TeacherConfig(output=str(save_tiny(tmp_path / "model", "sd3")), image_size=36)
    told = r"teacher\.image_size: 36 is more than 32, .*has 8 patches a side"
    with pytest.raises(UserError, match=told):
        load_teacher(config)
    own = sized(tmp_path / "larger", "sd3", 18)
    with pytest.raises(UserError, match=told):
        load_teacher(own)
    load_teacher(own.model_copy(update={"image_size": 32}))
