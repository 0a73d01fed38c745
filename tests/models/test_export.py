"""A saved network: diffusers opens it alone, and it is there whole or not at all."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from pipeline.diffusion.noise import EDM
from pipeline.models.export.save import read_provenance, save_denoiser
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.sampling import sample_student
from pipeline.utils.errors import UserError

LABELS = torch.tensor([0, 1, 2, 2])
START = EDM().sigma_max / (EDM().sigma_max ** 2 + 1) ** 0.5
"""diffusers starts at sqrt(sigma_max^2 + 1) times the latents, and the student at sigma_max."""
BAR = 1e-5


def shown(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], as the pipeline does."""
    return (images / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("classes", [3, None])
def test_grey_images_come_from_a_generator(
    tiny: Callable[..., UNet2D], tmp_path: Path, classes: int | None
) -> None:
    student, labels = tiny(classes=classes), LABELS if classes else None
    save_denoiser(student, tmp_path, {})
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    rng = torch.Generator().manual_seed(1)
    made = pipe(4, labels, num_inference_steps=1, generator=rng, output_type="pt").images
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) / START
    expected = shown(sample_student(student, noise, labels))
    torch.testing.assert_close(made, expected, atol=BAR, rtol=0)


def test_an_older_folder_is_replaced_as_a_whole(tiny: Callable[..., UNet2D], folder: Path) -> None:
    (folder / "stray").touch()
    before = (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    save_denoiser(tiny(seed=1), folder, {"seed": 1})
    assert (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes() != before
    assert not (folder / "stray").exists() and read_provenance(folder) == {"seed": 1}
    assert list(folder.parent.iterdir()) == [folder]


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def refused(denoiser: UNet2D, folder: Path) -> str:
    with pytest.raises(UserError, match=f"cannot write {folder}: .+") as error:
        save_denoiser(denoiser, folder, {"seed": 1})
    return str(error.value)


@pytest.mark.parametrize("broken", ["mkdir", "write_text", "rename"])
def test_a_failed_write_leaves_the_older_folder(
    tiny: Callable[..., UNet2D], folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = snapshot(folder.parent)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, broken, fail)
        assert "Permission denied" in refused(tiny(seed=1), folder)
    assert snapshot(folder.parent) == before


def test_a_full_disk_leaves_the_older_folder(tiny: Callable[..., UNet2D], folder: Path) -> None:
    """Weights are written by safetensors, whose errors are no OSError."""
    denoiser, before = tiny(seed=1), snapshot(folder.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        message = refused(denoiser, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in message
    assert snapshot(folder.parent) == before


def test_a_file_in_the_way_stays(tiny: Callable[..., UNet2D], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tiny(), tmp_path / "file")
    refused(tiny(), tmp_path / "file" / "model")
    assert snapshot(tmp_path) == {"file": b"mine"}
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_provenance_is_what_was_saved(tiny: Callable[..., UNet2D], tmp_path: Path) -> None:
    assert read_provenance(tmp_path / "new") is None
    assert read_provenance(tmp_path) is None
    provenance = {"seed": 0, "network": {"channels": [8, 8]}, "lr": 0.1}
    save_denoiser(tiny(), tmp_path / "new" / "model", provenance)
    assert read_provenance(tmp_path / "new" / "model") == provenance


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "thesis.txt").touch()
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(UserError, match=f"{tmp_path} is in use by something else"):
        read_provenance(tmp_path)
