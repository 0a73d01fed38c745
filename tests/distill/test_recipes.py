"""The papers' recipes: they stand as written, and run two steps on tiny networks."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from pipeline.cli import load, main
from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.distill import loop, run
from pipeline.errors import UserError
from pipeline.models.build import load_denoiser
from pipeline.models.lora import FILE
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student
from pipeline.teacher import make_teacher
from tests.edm_file import dump, network
from tests.image_sets import items, save_files
from tests.in_process import encode_images, make_pairs
from tests.lpips_weights import save_narrow
from tests.tiny_models import save_tiny

SMALL = {
    **{"pairs.count": 4, "pairs.shard_size": 2, "pairs.steps": 3, "pairs.batch_size": 2},
    **{"distill.steps": 2, "distill.lanes": 2, "distill.workers.max": 2, "distill.batch_size": 4},
    **{"distill.regression.batch_size": 2, "distill.precision": "fp32"},
}


def run_it(config: Config) -> None:
    """Pairs and training, in this process."""
    make_pairs(config)
    assert loop.train(config) == 2
    lines = (Path(config.distill.output) / "metrics.jsonl").read_text().splitlines()
    assert {"matching_gradient", "critic"} <= json.loads(lines[-1]).keys()


def small(flags: list[str]) -> Config:
    more = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    return fetch_inputs(load("", [*flags, *more])[0], "teacher")


def plan_of(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(run_it, "", [*flags, "--dry-run"]) == 0
    return capsys.readouterr().out


def test_sdxl_starts_at_399_and_opens_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.csv").write_text("caption\na cat\na dog\n")
    flags = ["--config", "configs/sdxl.yaml", "--run", str(tmp_path / "run")]
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model", "sdxl"))]
    flags += ["--teacher.prompts", str(tmp_path / "prompts.csv")]
    assert "100 teacher evaluations per pair (euler, 50 steps)" in plan_of(flags, capsys)
    short = ["--distill.regression_steps", "1", "--distill.student.every", "1"]
    config = small([*flags, *short])
    run_it(config)
    run.claim(config)
    run.finish(config)
    folder = Path(config.distill.output) / "student"
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    theirs = pipe(["a cat", "a dog"], latents=noise, **settings).images
    assert pipe.scheduler.timesteps.tolist() == [399]
    student = load_student(folder, config.teacher)
    ours = sample_student(student, noise, torch.tensor([0, 1]))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        UserError,
        match=r"distill\.student\.times: 1000 is no time of the teacher; it has whole .* 0 to 999",
    ):
        loop.train(small([*flags, *short, "--distill.student.times", "[1000]"]))


def test_sdxl_with_adapters(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.csv").write_text("caption\na cat\na dog\n")
    flags = ["--config", "configs/sdxl-lora.yaml", "--run", str(tmp_path / "run")]
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model", "sdxl"))]
    flags += ["--teacher.prompts", str(tmp_path / "prompts.csv")]
    assert plan_of(flags, capsys).count("rank: 64\n      alpha: 8.0") == 2
    short = ["--distill.regression_steps", "1", "--distill.student.every", "1"]
    config = small([*flags, *short, "--distill.precision", "bf16"])
    run_it(config)
    run.claim(config)
    run.finish(config)
    student = Path(config.distill.output) / "student"
    assert load_denoiser(student, "", config.teacher).schedule.start == 399
    assert (student / FILE).is_file()


def test_sdxl_in_four_steps_with_real_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = save_files(tmp_path / "images", items(4))
    flags = ["--config", "configs/sdxl-4-step.yaml", "--run", str(tmp_path / "run")]
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model", "sdxl"))]
    flags += ["--teacher.prompts", str(tmp_path / "run" / "real" / "listing.parquet")]
    flags += ["--encode.source", str(source), "--encode.shard_size", "2"]
    shown = plan_of(flags, capsys)
    assert "student_weight: 0.005" in shown
    first = load("", [*flags, "--teacher.prompts", "null"])[0]
    encode_images(first)
    config = small([*flags, "--distill.student.every", "1"])
    run.claim(config)
    assert loop.train(config) == 2
    run.finish(config)
    line = (Path(config.distill.output) / "metrics.jsonl").read_text().splitlines()[-1]
    assert {"matching_gradient", "gan_student", "gan_critic", "critic"} <= json.loads(line).keys()
    student = load_student(Path(config.distill.output) / "student", config.teacher)
    assert student.steps.times == (999, 749, 499, 249)
    (tmp_path / "prompts.txt").write_text("a cow")
    elsewhere = ["--distill.output", str(tmp_path / "other")]
    other = small([*flags, *elsewhere, "--teacher.prompts", str(tmp_path / "prompts.txt")])
    with pytest.raises(UserError, match=r"teacher\.prompts: 'picture \d', a caption in .*listing"):
        loop.train(other)


@pytest.mark.parametrize(
    "name", ["imagenet64-dmd2", "imagenet64-dmd2-two-stages", "imagenet64-f-distill", "sd15-dmd2"]
)
def test_recipes_of_dmd2_stand(name):
    distill = load("", ["--config", f"configs/{name}.yaml"])[0].distill
    assert distill.regression.weight == distill.regression_steps == 0
    assert (
        distill.student.every in (5, 10) and "Not run" in Path(f"configs/{name}.yaml").read_text()
    )


def test_stable_diffusion(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.csv").write_text("caption\na cat\na dog\n")
    flags = ["--config", "configs/sd15.yaml", "--run", str(tmp_path / "run")]
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model"))]
    flags += ["--teacher.prompts", str(tmp_path / "prompts.csv")]
    flags += ["--distill.regression.lpips", str(save_narrow(tmp_path / "lpips.safetensors"))]
    shown = plan_of(flags, capsys)
    size = 500_000 * (2 * 2 * 4 * 8 * 8 + 16)
    assert f"500000 pairs in 1000 shards, {size} bytes" in shown
    assert "102 teacher evaluations per pair (plms, 50 steps)" in shown
    run_it(small(flags))


def test_imagenet_from_nvidias_file(tmp_path, capsys):
    (tmp_path / "edm.pkl").write_bytes(dump({"ema": network("adm", mult=(1, 1))}))
    flags = ["--config", "configs/imagenet64.yaml", "--run", str(tmp_path / "run")]
    flags += ["--import", str(tmp_path / "edm.pkl")]
    flags += ["--distill.regression.lpips", str(save_narrow(tmp_path / "lpips.safetensors"))]
    shown = plan_of(flags, capsys)
    assert "511 teacher evaluations per pair (heun, 256 steps)" in shown
    config = small(flags)
    make_teacher(config)
    run_it(config)
