"""Qwen-Image-Edit's own: images at their whole size, from a table to samples, and refusals."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint import calculate_dimensions
from transformers import Qwen2VLProcessor

from pipeline.config import Config, PairsConfig, TeacherConfig
from pipeline.data.fetch import fetch_inputs
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Storage
from pipeline.gallery.studio import Studio
from pipeline.models.loading import load_teacher
from pipeline.stages.sample import sample
from tests.families.builder import PROMPTS
from tests.families.builders import qwen_edit
from tests.families.builders.qwen import BUILDERS as QWEN
from tests.families.measures import close, refused
from tests.fixtures.denoise import denoise
from tests.fixtures.in_process import make_pairs
from tests.fixtures.prompt_images import picture, png

EDIT, PLUS = qwen_edit.BUILDERS["qwen-edit"], qwen_edit.BUILDERS["qwen-edit-plus"]


@pytest.fixture
def model(tiny_model: Any, prompts: Path, tmp_path: Path) -> TeacherConfig:
    return EDIT.teacher(shutil.copytree(tiny_model(EDIT), tmp_path / "model"), prompts)


@torch.no_grad()
@pytest.mark.parametrize("builder", [EDIT, PLUS], ids=["edit", "plus"])
def test_images_have_a_million_pixels_as_in_the_pipeline(
    tiny_model: Any, prompts: Path, tmp_path: Path, monkeypatch: Any, builder: Any
) -> None:
    """With a VAE of 16 pixels to a latent and a wide image; not brought to fewer as elsewhere."""
    folder, name = shutil.copytree(tiny_model(builder), tmp_path / "model"), "calculate_dimensions"
    monkeypatch.setattr(pipeline_qwenimage_edit, name, calculate_dimensions)
    monkeypatch.setattr(
        pipeline_qwenimage_edit_plus, name, lambda *given: calculate_dimensions(*given)[:2]
    )
    AutoencoderKLQwenImage(
        base_dim=2,
        z_dim=4,
        dim_mult=[1] * 5,
        num_res_blocks=0,
        temperal_downsample=[False, False, False, True],
        latents_mean=[0.1, 0.2, 0.3, 0.4],
        latents_std=[1.0, 1.5, 2.0, 2.5],
    ).save_pretrained(folder / "vae")
    wide = replace(builder.sized(64, 96), space=(4, 6), labels=(1, 0))
    teacher = load_teacher(wide.teacher(folder, prompts))
    condition = teacher.conditioner(torch.tensor([1]), 1)
    assert condition["image_latents"].shape[1:] == (wide.count, 4, 832 // 16, 1248 // 16)
    first = replace(wide, row=0)
    for time, x_t, theirs in first.calls(wide.open(folder), teacher, 2):
        close(denoise(teacher, x_t, torch.full((1,), time), torch.tensor([1])), theirs, 1e-5)


def test_from_a_table_to_pairs_samples_and_the_gallery(
    model: TeacherConfig, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [("make it blue", "a.png"), ("a hat", "b.png"), ("make it blue", "b.png")]
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "b.png").write_bytes(png(picture(2)))
    table = tmp_path / "edits.csv"
    table.write_text("prompt,image\n" + "".join(f"{a},{b}\n" for a, b in rows))
    shutil.copytree(model.output, tmp_path / "student")
    given = {**model.model_dump(mode="json"), "prompts": str(table), "prompt_images": ["image"]}
    config = Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": given,
            "pairs": {"count": 3, "shard_size": 3, "solver": "euler", "steps": 2, "guidance": 4.0},
            "evaluate": {"student": str(tmp_path / "student")},
            "sample": {"count": 3},
        }
    )
    make_pairs(config)
    plan = read_manifest(Storage(config.pairs.output, config.s3, "")).plan
    sample(config)
    assert Path(config.sample.output).stat().st_size
    teacher = load_teacher(fetch_inputs(config, "teacher").teacher)
    studio = Studio(teacher, teacher, PairsConfig(steps=2), seed=0)
    asked = {"first": "1", "second": "2"}
    known, other, same = (
        studio.make(studio.wish({"prompt": prompt, **asked})).file
        for prompt in ("a hat", "a red hat", "make it blue")
    )
    assert len({known, other, same}) == 3
    (tmp_path / "b.png").write_bytes(png(picture(3)))
    other_run = config.model_copy(
        update={"pairs": config.pairs.model_copy(update={"output": str(tmp_path / "other")})}
    )
    make_pairs(other_run)
    changed = read_manifest(Storage(other_run.pairs.output, config.s3, "")).plan
    assert changed.prompts != plan.prompts and changed.teacher != plan.teacher


def test_images_that_are_missing_or_not_taken_are_one_line(
    model: TeacherConfig, tiny_model: Any, prompts: Path
) -> None:
    one, two = model.prompts, PLUS.teacher(Path(model.output), prompts).prompts
    for file, count in ((str(prompts), 0), (two, 2)):
        problem = refused(model.model_copy(update={"prompts": file}))
        told = f"QwenImageEditPipeline takes 1 image beside a prompt, not {count}"
        assert problem.startswith(f"teacher.prompt_images: a {told}")
    plain = QWEN["qwen"].teacher(tiny_model(QWEN["qwen"]), Path(str(one)))
    assert "a QwenImagePipeline takes no images beside a prompt, not 1" in refused(plain)
    assert list(load_teacher(model).prompts or ()) == PROMPTS


def test_a_processor_that_is_broken_is_named(model: TeacherConfig, monkeypatch: Any) -> None:
    part = Path(model.output) / "processor"
    vocabulary = part / "tokenizer.json"
    content = vocabulary.read_bytes()
    vocabulary.unlink()
    assert f"{part}" in refused(model)
    vocabulary.write_bytes(content)
    whole = ["image_processor", "tokenizer", "video_processor"]
    monkeypatch.setattr(Qwen2VLProcessor, "get_attributes", staticmethod(lambda: whole))
    monkeypatch.setattr("pipeline.models.folder.find_spec", {"transformers": True}.get)
    assert f"{part} needs the package torchvision" in refused(model)
