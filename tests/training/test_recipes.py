"""The papers' recipes: they stand as written, and run two steps on tiny_run networks."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from pipeline.cli import load, main
from pipeline.cli.job import Job
from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.methods.recipe import Recipe
from pipeline.models.lora import FILE
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student
from pipeline.runs.run import Run
from pipeline.stages.teacher import make_teacher
from pipeline.training import loop
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.edm_file import dump, network
from tests.fixtures.image_sets import items, save_files
from tests.fixtures.in_process import encode_images, make_pairs
from tests.fixtures.lpips_weights import save_narrow
from tests.fixtures.tiny_models import save_tiny

SMALL = {
    **{"pairs.count": 4, "pairs.shard_size": 2, "pairs.steps": 3, "pairs.batch_size": 2},
    **{"distill.steps": 2, "distill.lanes": 2, "distill.workers.max": 2, "distill.batch_size": 4},
    **{"distill.regression.batch_size": 2, "distill.precision": "fp32"},
}


def run_it(config: Config, *losses: str) -> None:
    """Two steps of training and the student, in this process; pairs where they are needed."""
    if Recipe.of(config.distill).needs.pairs:
        make_pairs(config)
    Run(config).claim()
    assert loop.train(config) == 2
    Run(config).finish()
    lines = (Path(config.distill.output) / "metrics.jsonl").read_text().splitlines()
    assert {"matching_gradient", "critic", *losses} <= json.loads(lines[-1]).keys()


def small(flags: list[str]) -> Config:
    more = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    return fetch_inputs(load([*flags, *more]), "teacher")


def plan_of(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(Job(run_it), [*flags, "--dry-run"]) == 0
    return capsys.readouterr().out


GAN = ("gan_student", "gan_critic")
SHORT = ["--distill.student.every", "1"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def flags_of(name: str, tmp_path: Path, run: str = "run") -> list[str]:
    return ["--config", f"configs/{name}.yaml", "--run", str(tmp_path / run)]


def with_images(flags: list[str], tmp_path: Path, classes: int | None = None) -> list[str]:
    """The same flags with a set of real images, which is encoded; its captions are the prompts."""
    source, some = tmp_path / "images", items(classes or 4)
    if classes is None:
        save_files(source, some)
    else:
        for number, each in enumerate(some):
            save_files(source / str(number), [each])
    flags = [*flags, "--encode.source", str(source), "--encode.shard_size", "2"]
    output = load(flags).encode.output
    prompts = ["--teacher.prompts", "null" if classes else f"{output}/listing.parquet"]
    encode_images(load([*flags, "--teacher.prompts", "null"]))
    return [*flags, *prompts]


def sdxl(name: str, tmp_path: Path) -> list[str]:
    flags = flags_of(name, tmp_path)
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model", "sdxl"))]
    return with_images(flags, tmp_path)


def test_sdxl_starts_at_399_and_opens_so(tmp_path, capsys):
    flags = sdxl("sdxl", tmp_path)
    shown = plan_of(flags, capsys)
    assert "100 teacher evaluations per pair (euler, 50 steps, bf16)" in shown
    assert "student_weight: 0.005" in shown
    short = [*SHORT, "--distill.regression_steps", "1"]
    config = small([*flags, *short])
    run_it(config, *GAN)
    folder = Path(config.distill.output) / "student"
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    theirs = pipe(["picture 0", "picture 1"], latents=noise, **settings).images
    assert pipe.scheduler.timesteps.tolist() == [399]
    student = load_student(folder, config.teacher)
    ours = sample_student(student, noise, torch.tensor([0, 1]))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        UserError,
        match=r"distill\.student\.times: 1000 is no time of the teacher; it has whole .* 0 to 999",
    ):
        other = [*flags, *short, "--distill.output", f"{tmp_path / 'other'}"]
        loop.train(small([*other, "--distill.student.times", "[1000]"]))


def test_sdxl_in_four_steps_with_adapters(tmp_path, capsys):
    flags = sdxl("sdxl-lora", tmp_path)
    shown = plan_of(flags, capsys)
    assert shown.count("rank: 64\n      alpha: 8.0") == 2 and "student_weight: 0.005" in shown
    config = small([*flags, *SHORT, "--distill.precision", "bf16"])
    run_it(config, *GAN)
    folder = Path(config.distill.output) / "student"
    assert load_student(folder, config.teacher).sampler.timesteps == (999, 749, 499, 249)
    assert (folder / FILE).is_file()


def test_sdxl_in_four_steps(tmp_path, capsys):
    flags = sdxl("sdxl-4-step", tmp_path)
    assert "student_weight: 0.005" in plan_of(flags, capsys)
    config = small([*flags, *SHORT])
    run_it(config, *GAN)
    student = load_student(Path(config.distill.output) / "student", config.teacher)
    assert student.sampler.timesteps == (999, 749, 499, 249)
    (tmp_path / "prompts.txt").write_text("a cow")
    elsewhere = ["--distill.output", str(tmp_path / "other")]
    other = small([*flags, *SHORT, *elsewhere, "--teacher.prompts", str(tmp_path / "prompts.txt")])
    with pytest.raises(UserError, match=r"teacher\.prompts: 'picture \d', a caption in .*listing"):
        loop.train(other)


@pytest.mark.parametrize(
    ("name", "model", "steps"),
    [
        ("qwen-image-4-step", "qwen", 4),
        ("z-image-8-step", "z-image", 8),
        ("flux2-klein-4-step", "flux2-klein", 4),
        ("wan21-4-step", "wan-unipc", 4),
        ("wan22-4-step", "wan-experts", 4),
    ],
)
def test_large_models_with_adapters_of_prompts_alone(name, model, steps, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    flags = flags_of(name, tmp_path)
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model", model))]
    flags += ["--teacher.prompts", str(tmp_path / "prompts.txt")]
    flags += ["--teacher.image_size", str(BUILDERS[model].settings["image_size"])]
    shown = plan_of(flags, capsys)
    assert shown.count("rank: 64\n      alpha: 8.0") == 2 and "every: 5" in shown
    config = small([*flags, *SHORT, "--distill.precision", "bf16"])
    run_it(config)
    folder = Path(config.distill.output) / "student"
    student = load_student(folder, config.teacher)
    assert len(student.sampler.timesteps) == steps and (folder / FILE).is_file()


def imagenet(name: str, tmp_path: Path, run: str = "run", shared: bool = True) -> list[str]:
    """Flags of a run, its teacher made; one for all runs, or where the recipe has its own."""
    return nvidia(name, tmp_path, network("adm", mult=(1, 1)), run, shared)


def nvidia(
    name: str, tmp_path: Path, model: object, run: str = "run", shared: bool = True
) -> list[str]:
    """The same of a teacher from a file of that network."""
    file = tmp_path / "edm.pkl"
    if not file.exists():
        file.write_bytes(dump({"ema": model}))
    flags = [*flags_of(name, tmp_path, run), "--import", str(file)]
    if shared:
        flags += ["--teacher.output", str(tmp_path / "teacher")]
    make_teacher(load(flags))
    return flags


@pytest.mark.parametrize("name", ["imagenet64-dmd2", "imagenet64-f-distill"])
def test_imagenet_with_real_images(name, tmp_path, capsys):
    flags = with_images(imagenet(name, tmp_path), tmp_path, classes=10)
    shown = plan_of(flags, capsys)
    assert "student_weight: 0.003" in shown and "every: 5" in shown
    run_it(small([*flags, *SHORT]), *GAN)


def test_imagenet_by_scores_and_the_encoder(tmp_path, capsys):
    flags = with_images(imagenet("imagenet64-sida", tmp_path), tmp_path, classes=10)
    shown = plan_of(flags, capsys)
    assert "loss: sid-1" in shown and "heads: mean" in shown
    run_it(small([*flags, "--distill.burn_in_steps", "0"]), *GAN)


def second_stage(name: str, tmp_path: Path) -> list[str]:
    """Flags of the command in the comment of a recipe, its runs in another folder."""
    lines = Path(f"configs/{name}.yaml").read_text().splitlines()
    comment = " ".join(line.lstrip("# ").rstrip("\\") for line in lines if line.startswith("#"))
    command = comment[comment.index("python jobs/distill.py") :].replace("runs/", f"{tmp_path}/")
    return shlex.split(command)[2:]


def test_imagenet_in_two_stages(tmp_path, capsys):
    """The second as the comment in the first one's file has it."""
    first = imagenet("imagenet64-dmd2-two-stages", tmp_path, "imagenet64-first", shared=False)
    assert "every: 5" in plan_of(first, capsys)
    run_it(small([*first, *SHORT]))
    with_images(flags_of("imagenet64-dmd2", tmp_path, "imagenet64-first"), tmp_path, classes=10)
    second = second_stage("imagenet64-dmd2-two-stages", tmp_path)
    shown = plan_of(second, capsys)
    assert "steps: 140000" in shown and shown.count("lr: 5.0e-07") == 2
    run_it(small([*second, *SHORT]), *GAN)


def test_stable_diffusion_in_two_stages(tmp_path, capsys):
    """The second as the comment in the file has it; its prompts are the captions."""
    model = ["--teacher.output", str(save_tiny(tmp_path / "model"))]
    first = with_images([*flags_of("sd15-dmd2", tmp_path, "sd15-first"), *model], tmp_path)
    shown = plan_of(first, capsys)
    assert "every: 10" in shown and "guidance: 1.75" in shown
    run_it(small([*first, *SHORT]))
    second = [*second_stage("sd15-dmd2", tmp_path), *model]
    shown = plan_of(second, capsys)
    assert "steps: 2000" in shown and "student_weight: 0.001" in shown
    run_it(small([*second, *SHORT]), *GAN)


@pytest.mark.parametrize(("name", "count"), [("sd15", 500_000), ("sd15-guidance-8", 2_500_000)])
def test_stable_diffusion(name, count, tmp_path, capsys):
    (tmp_path / "prompts.csv").write_text("caption\na cat\na dog\n")
    flags = flags_of(name, tmp_path)
    flags += ["--teacher.output", str(save_tiny(tmp_path / "model"))]
    flags += ["--teacher.prompts", str(tmp_path / "prompts.csv")]
    flags += ["--distill.regression.lpips", str(save_narrow(tmp_path / "lpips.safetensors"))]
    shown = plan_of(flags, capsys)
    size = count * (2 * 2 * 4 * 8 * 8 + 16)
    assert f"{count} pairs in {count // 500} shards, {size} bytes" in shown
    assert "102 teacher evaluations per pair (plms, 50 steps, bf16)" in shown
    run_it(small(flags), "regression")


@pytest.mark.parametrize(
    ("name", "family", "steps"),
    [("imagenet64", "adm", 256), ("cifar10", "ddpmpp", 18)],
)
def test_from_nvidias_file(name, family, steps, tmp_path, capsys):
    flags = nvidia(name, tmp_path, network(family, mult=(1, 1)))
    flags += ["--distill.regression.lpips", str(save_narrow(tmp_path / "lpips.safetensors"))]
    shown = plan_of(flags, capsys)
    assert f"{2 * steps - 1} teacher evaluations per pair (heun, {steps} steps, fp32)" in shown
    run_it(small(flags), "regression")


def test_every_recipe_of_a_paper_is_run_above():
    source = Path(__file__).read_text()
    papers = [file.stem for file in Path("configs").glob("*.yaml") if "arXiv" in file.read_text()]
    assert len(papers) > 9 and all(f'"{name}"' in source for name in papers)
