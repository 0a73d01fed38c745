"""A text-to-image teacher through the whole house: prompts, pairs, student, export."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.models.loading import load_teacher
from pipeline.models.students import load_student
from pipeline.runs.run import Run
from pipeline.stages.evaluate import evaluate
from pipeline.stages.sample import sample
from pipeline.stages.verify import inspect, verify
from pipeline.training import loop
from pipeline.training.memory import footprint
from pipeline.utils.errors import UserError
from pipeline.utils.image_grid import read_grid
from tests.fixtures.in_process import make_pairs
from tests.fixtures.lpips_weights import save_narrow
from tests.fixtures.tiny_models import save_tiny
from tests.fixtures.tiny_parts import tiny_decoder

PROMPTS = ["a cat", "a dog", "a cat"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture
def config(teacher, tmp_path, monkeypatch) -> Config:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": {
                "output": str(teacher),
                "prompts": str(tmp_path / "prompts.txt"),
                "negative_prompt": "blurry",
            },
            "pairs": {
                "count": 12,
                "shard_size": 6,
                "solver": "plms",
                "steps": 4,
                "guidance": 3.0,
                "resolve": 4,
            },
            "distill": {
                "steps": 4,
                "regression_steps": 1,
                "burn_in_steps": 1,
                "batch_size": 4,
                "regression": {"batch_size": 4},
                "checkpoint_every": 2,
                "sample_every": 4,
                "log_every": 2,
            },
            "evaluate": {"count": 12},
            "sample": {"count": 10},
        }
    )


def changed(config: Config, **teacher) -> Config:
    tree = config.model_dump(mode="json")
    tree["teacher"] |= teacher
    return Config.model_validate(tree)


def test_prompts_are_stored_and_equal_ones_have_other_noise(config, capsys):
    make_pairs(config)
    first, second = sorted(Path(config.pairs.output).glob("*.parquet"))
    table = pq.read_table(first)
    assert table["prompt"].to_pylist() == PROMPTS * 2
    noise = table["noise"].to_pylist()
    assert len(set(noise)) == 6, "equal prompts, other noise"
    assert len(set(table["image"].to_pylist())) == 6
    inspect(config)
    shown = capsys.readouterr().out
    assert "prompts  3, away from 'blurry'" in shown and "1 a dog" in shown
    verify(config)
    assert "12 pairs are sound" in capsys.readouterr().out
    content = second.read_bytes()
    second.write_bytes(content.replace(b"a dog", b"a cog"))
    with pytest.raises(UserError, match=second.name):
        verify(config)


def test_other_prompts_are_refused(config, tmp_path):
    make_pairs(config)
    (tmp_path / "prompts.txt").write_text("a cow\na dog\na cat")
    with pytest.raises(UserError, match="is of another one: it has prompts '"):
        make_pairs(config)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    with pytest.raises(UserError, match="negative_prompt 'blurry', not 'dark'"):
        make_pairs(changed(config, negative_prompt="dark"))
    with pytest.raises(UserError, match="teacher.prompts: .* takes text; give a file of prompts"):
        make_pairs(changed(config, prompts=None))


def test_a_student_learns_and_opens_in_diffusers(config):
    make_pairs(config)
    local = fetch_inputs(config, "teacher")
    memory = footprint(local, load_teacher(local.teacher))
    assert memory.activations > 10 * 8 * 8 * 8 * 4, "text is counted without being encoded"
    Run(local).claim()
    assert loop.train(local) == 4
    Run(local).finish()
    output = Path(config.distill.output)
    figures = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert {"regression", "matching_gradient", "critic"} <= figures[-1].keys()
    with Image.open(output / "samples" / "step-0000004.png") as grid:
        assert grid.width > 20 * 16
    pipe = DiffusionPipeline.from_pretrained(output / "student", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    before = DiffusionPipeline.from_pretrained(config.teacher.output, safety_checker=None)
    weights = [each.unet.conv_in.weight for each in (pipe, before)]
    assert not torch.equal(*weights), "it has learnt"
    assert pipe("a cat", num_inference_steps=1, guidance_scale=1.0).images[0].size == (16, 16)
    sample(config)
    evaluate(config)
    for name in ("samples.png", "evaluation.png"):
        with Image.open(Path(config.run) / name) as picture:
            assert picture.height > 16
    sheet = read_grid((Path(config.run) / "evaluation.png").read_bytes())
    assert sheet is not None and sheet.columns == ["noise", "teacher", "student"]
    assert list(sheet.rows)[:2] == ["a cat", "a dog"], "a row for each prompt"
    samples = read_grid((Path(config.run) / "samples.png").read_bytes())
    assert samples is not None and list(samples.rows) == list(sheet.rows)


@pytest.mark.parametrize("version", ["sana", "sd3"])
def test_a_perceptual_distance_sees_the_images_of_latents(version, config, tmp_path):
    """Through the teacher's own VAE, and through a tiny decoder."""
    tree = config.model_dump(mode="json")
    tree["teacher"]["output"] = str(save_tiny(tmp_path / "model", version))
    tree["pairs"] |= {"solver": "euler", "count": 6}
    tree["distill"]["student"] |= {"times": (1.0, 0.5)}
    lpips = str(save_narrow(tmp_path / "lpips.safetensors"))
    decoder = str(tiny_decoder(tmp_path / "decoder")) if version == "sd3" else None
    tree["distill"]["regression"] |= {"distance": "lpips", "lpips": lpips, "decoder": decoder}
    config = Config.model_validate(tree)
    make_pairs(config)
    local = fetch_inputs(config, "teacher")
    Run(local).claim()
    assert loop.train(local) == 4
    Run(local).finish()
    output = Path(config.distill.output)
    figures = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert {"regression", "matching_gradient", "critic"} <= figures[-1].keys()
    student, teacher = load_student(output / "student", local.teacher), load_teacher(local.teacher)
    changed = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(student.parameters(), teacher.parameters(), strict=True)
    ]
    assert sum(changed) > 0.9 * len(changed), "all of it learns"
