"""Weights in several files are read and counted as those in one; other kinds are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from pipeline.config import TeacherConfig
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_denoiser, load_teacher, teacher_fingerprint
from pipeline.models.weights import weights_digest
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

NAME = "diffusion_pytorch_model"


def fingerprint(folder: Path) -> str:
    return teacher_fingerprint(TeacherConfig(output=str(folder)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same model with the UNet in several files."""
    copy = shutil.copytree(model, model.with_name("sharded"))
    (copy / WEIGHTS).unlink()
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    unet.save_pretrained(copy / "unet", max_shard_size="20KB")
    assert len(list((copy / "unet").glob(f"{NAME}-*.safetensors"))) > 1
    return copy


def test_a_network_in_several_files_is_the_same_network(model: Path, sharded: Path) -> None:
    whole, parts = (
        load_teacher(TeacherConfig(output=str(folder))).state_dict() for folder in (model, sharded)
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_every_file_of_it_is_in_the_fingerprint(sharded: Path) -> None:
    before = fingerprint(sharded), weights_digest(sharded)
    for file in sorted((sharded / "unet").glob(f"{NAME}*")):
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert fingerprint(sharded) != before[0] and weights_digest(sharded) != before[1], file
        file.write_bytes(content)
    assert (fingerprint(sharded), weights_digest(sharded)) == before


def test_a_part_that_is_missing_is_named(sharded: Path) -> None:
    last = max((sharded / "unet").glob(f"{NAME}-*.safetensors"))
    last.unlink()
    for read in (fingerprint, lambda folder: load_denoiser(folder, "")):
        with pytest.raises(UserError, match=f"no {last}, which {NAME}.*index.json names: copy it"):
            read(sharded)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 1}', "{}"])
def test_a_damaged_index_is_named(sharded: Path, content: str) -> None:
    index = sharded / f"{WEIGHTS}.index.json"
    index.write_text(content)
    with pytest.raises(UserError, match=f"{index} is damaged"):
        load_denoiser(sharded, "")


@pytest.mark.parametrize(
    "name", [f"{NAME}.fp16.safetensors", f"{NAME}.bin", f"{NAME}.non_ema.safetensors"]
)
def test_variants_and_pickles_alone_are_refused_by_name(model: Path, name: str) -> None:
    (model / WEIGHTS).rename(model / "unet" / name)
    for read in (fingerprint, lambda folder: load_denoiser(folder, "")):
        with pytest.raises(
            UserError, match=f"no .*{NAME}.safetensors, but {name}: neither pickles"
        ):
            read(model)


def test_what_is_not_read_is_not_in_the_fingerprint(model: Path) -> None:
    """So that a clone with everything and a copy from the Hub are one teacher."""
    before = fingerprint(model)
    for part, name in (
        ("unet", f"{NAME}.fp16.safetensors"),
        ("vae", f"{NAME}.bin"),
        ("text_encoder", "model.fp16.safetensors"),
        ("text_encoder", "flax_model.msgpack"),
        ("tokenizer", "README.md"),
    ):
        (model / part / name).write_text("more")
    assert fingerprint(model) == before
    (model / "vae" / f"{NAME}.safetensors").write_text("other")
    assert fingerprint(model) != before


def test_a_saved_network_says_nothing_of_places(
    tiny: Callable[..., UNet2D], model: Path, tmp_path: Path
) -> None:
    for number, network in enumerate((load_teacher(TeacherConfig(output=str(model))), tiny())):
        assert isinstance(network, torch.nn.Module)
        save_denoiser(network, tmp_path / f"saved-{number}", {})
        for file in (tmp_path / f"saved-{number}").rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
            json.loads(file.read_text())
