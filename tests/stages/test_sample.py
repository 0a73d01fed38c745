"""A sheet of one-step images."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.config import Config
from pipeline.models.condition import read_prompts
from pipeline.models.families.gaussian import GaussianMixture, gaussian_teacher
from pipeline.stages import sample
from pipeline.utils.errors import UserError
from tests.fixtures.prompt_images import picture, write_prompts


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> GaussianMixture:
    """A student that answers with its class mean, all but exactly."""
    student = gaussian_teacher((1, 8, 8), 10)
    monkeypatch.setattr(sample, "load_student", lambda *_: student)
    return student


def settings(folder: Path, count: int) -> Config:
    return Config.model_validate({"run": str(folder), "sample": {"count": count}})


def test_images_go_through_the_classes(
    tmp_path: Path, student: GaussianMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []

    def keep(rows: dict[str, Tensor], path: Path, columns: list[str]) -> None:
        sheets.append(torch.cat(list(rows.values())))
        assert [len(images) for images in rows.values()][:-1] == [10] * (len(rows) - 1)
        assert columns == [str(label) for label in range(10)]

    monkeypatch.setattr(sample, "save_grid", keep)
    sample.sample(settings(tmp_path, 10))
    sample.sample(settings(tmp_path, 23))
    assert torch.equal(sheets[1][:10], sheets[0])
    assert len(sheets[1]) == 23
    means = student.means[torch.arange(23) % 10].view(23, 1, 8, 8)
    torch.testing.assert_close(sheets[1], means, atol=0.01, rtol=0)


def test_the_sheet_is_a_file_of_the_run(tmp_path: Path, student: GaussianMixture) -> None:
    sample.sample(settings(tmp_path / "new", 100))
    page = Image.open(tmp_path / "new" / "samples.png")
    assert page.width > 10 * 60 and page.height > 10 * 60


def test_a_missing_student_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill/student.*jobs/distill.py"):
        sample.sample(settings(tmp_path, 10))


def test_an_open_student_makes_images_of_the_classes_that_are_asked_for(
    tmp_path: Path, student: GaussianMixture
) -> None:
    opened = sample.open_student(settings(tmp_path, 1))
    in_turn, asked = opened.images(12), opened.images(3, [7, 7, 0])
    assert torch.equal(opened.images(3), in_turn[:3])
    means = student.means.view(-1, 1, 8, 8)
    torch.testing.assert_close(asked, means[torch.tensor([7, 7, 0])], atol=0.01, rtol=0)
    torch.testing.assert_close(in_turn, means[torch.arange(12) % 10], atol=0.01, rtol=0)


def test_equal_prompts_have_a_row_for_each_image_beside_them(
    tmp_path: Path, student: GaussianMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("make it blue", 1), ("a hat", 2), ("make it blue", 3), ("a hat", 2)]
    given = [(prompt, [picture(seed)]) for prompt, seed in rows]
    file = write_prompts(tmp_path / "all.prompts", given)
    student.conditioner.prompts = read_prompts(str(file))
    sheets = []
    monkeypatch.setattr(sample, "save_grid", lambda rows, *_, **__: sheets.append(rows))
    sample.sample(settings(tmp_path, 6))
    (sheet,) = sheets
    means = student.means.view(-1, 1, 8, 8)
    assert list(sheet) == ["make it blue (0)", "a hat", "make it blue (2)"]
    for images, label in zip(sheet.values(), (0, 3, 2), strict=True):
        torch.testing.assert_close(images, means[[label, label]], atol=0.01, rtol=0)
