"""A student's folder for strangers: its card tells the truth, and its code runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.students import load_student, new_student
from pipeline.models.weights import weights_digest
from pipeline.runs.init_from import InitFrom
from pipeline.runs.run import Run
from pipeline.stages.export import export
from pipeline.training import loop
from pipeline.utils.errors import UserError
from tests.fixtures.hub import TOKEN, serve
from tests.fixtures.tiny_models import save_deep, save_tiny

NO_PAIRS = {"regression_steps": 0, "regression": {"weight": 0.0, "batch_size": 8}}


def changed(config: Config, **branches: dict) -> Config:
    tree = config.model_dump(mode="json")
    for name, settings in branches.items():
        tree[name] |= settings
    return Config.model_validate(tree)


def snippets(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)


def strange(code: str, folder: Path, **environment: str) -> None:
    """Run code where this package cannot be imported."""
    code = f"import sys\nsys.modules['pipeline'] = None\n{code}"
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Config:
    """A finished run of ten steps with pictures at 5 and 10."""
    config = Config.model_validate(
        {
            "run": str(tmp_path_factory.mktemp("run")),
            "data": {"name": None},
            "network": {"channels": [8], "attention": [False], "norm_groups": 4},
            "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 3}},
            "pairs": {"steps": 3},
            "distill": {
                "steps": 10,
                "burn_in_steps": 0,
                "batch_size": 8,
                "sample_every": 5,
                "checkpoint_every": 2,
                "keep": 9,
                **NO_PAIRS,
            },
        }
    )
    Run(config).claim()
    loop.train(config)
    Run(config).finish()
    return config


def test_a_finished_run_has_a_card_whose_code_runs(finished):
    student = Path(finished.distill.output) / "student"
    card = ModelCard.load(student / "README.md")
    assert card.data.library_name == "diffusers"
    assert "an exact Gaussian score" in card.text and "## Figures" not in card.text
    assert Run(finished).is_finished(), "the card is no part of what is compared"
    pictures = sorted((Path(finished.distill.output) / "samples").iterdir())
    assert (student / "samples.png").read_bytes() == pictures[-1].read_bytes()
    (code,) = snippets(student / "README.md")
    strange(code, student.parent)
    with Image.open(student.parent / "image.png") as image:
        assert image.size == (4, 4)


def test_an_earlier_student_has_the_picture_of_its_time(finished):
    export(changed(finished, export={"step": 8}))
    folder = Path(finished.export.output)
    picture = Path(finished.distill.output) / "samples" / "step-0000005.png"
    assert (folder / "samples.png").read_bytes() == picture.read_bytes()
    export(changed(finished, export={"step": 4}))
    assert not (folder / "samples.png").exists()
    assert "## Samples" not in (folder / "README.md").read_text()


def test_figures_are_of_these_very_weights(finished):
    student = Path(finished.distill.output) / "student"
    figures = {"fd_teacher": 0.5, "accuracy": None, "student": weights_digest(student)}
    figures["metrics"] = {"features": {"name": "some net"}}
    file = Path(finished.evaluate.output) / "evaluation.json"
    file.write_text(json.dumps(figures))
    export(finished)
    text = (Path(finished.export.output) / "README.md").read_text()
    assert "| features | some net |\n| fd_teacher | 0.5 |" in text and "accuracy" not in text
    export(changed(finished, export={"step": 8}))
    assert "fd_teacher" not in (Path(finished.export.output) / "README.md").read_text()
    for broken in ("{", "[]", '{"fd_teacher": 1}'):
        file.write_text(broken)
        export(finished)
        assert "## Figures" not in (Path(finished.export.output) / "README.md").read_text()


def test_what_cannot_be_pushed_or_exported_is_told_before_anything_is_saved(
    finished, hub, tmp_path
):
    finished = changed(finished, export={"output": str(tmp_path / "export")})
    for settings, message in (
        ({"push": "someone/student"}, "export.push: no token"),
        ({"comfyui": True}, "export.comfyui: the student is a ConsistencyModelPipeline"),
    ):
        with pytest.raises(UserError, match=message):
            export(changed(finished, export=settings))
    assert not Path(finished.export.output).exists()
    with pytest.raises(ValueError, match="export.push: 'student' is no repository of the Hub"):
        changed(finished, export={"push": "student"})


@pytest.fixture
def text(hub, tmp_path) -> Config:
    """A run of two steps whose teacher is a Stable Diffusion on the Hub."""
    folder = save_deep(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# A model")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_text("a pickle")
    (tmp_path / "prompts.txt").write_text("a cat\na dog")
    config = Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": {
                "output": f"hf://owner/model@{hub.add('owner/model', folder)}",
                "prompts": str(tmp_path / "prompts.txt"),
            },
            "s3": {"profile": "secret-profile"},
            "distill": {
                "steps": 2,
                "burn_in_steps": 0,
                "batch_size": 4,
                "lanes": 1,
                "checkpoint_every": 2,
                "sample_every": 2,
                "log_every": 2,
                "wandb": None,
                "workers": {"max": 1},
                **NO_PAIRS,
            },
        }
    )
    local = fetch_inputs(config, "teacher")
    assert teacher_fingerprint(local.teacher) == teacher_fingerprint(
        local.teacher.model_copy(update={"output": str(folder)})
    ), "a teacher from the Hub is the same teacher as its folder"
    Run(local).claim()
    assert loop.train(local) == 2
    Run(config).finish()
    return config


def test_a_student_from_hub_to_hub(text, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    export(changed(text, export={"push": "someone/student", "variant": "fp16", "comfyui": True}))
    pushed = capsys.readouterr().out.split("pushed: ")[1].strip()
    files = hub.repos["someone/student"].commits[hub.repos["someone/student"].head]
    assert hub.repos["someone/student"].visibility == "private"
    assert {
        "README.md",
        "samples.png",
        "provenance.json",
        "comfyui/student.safetensors",
        "comfyui/workflow.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    } <= files.keys()

    folder = Path(text.export.output)
    assert files["README.md"] == (folder / "README.md").read_bytes()
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "owner/model" and card.data.license == "creativeml-openrail-m"
    assert card.data.pipeline_tag == "text-to-image"
    assert text.teacher.output.rpartition("@")[2] in card.text
    full, half = (
        load_file(folder / "unet" / f"diffusion_pytorch_model{each}.safetensors")
        for each in ("", ".fp16")
    )
    assert {each.dtype for each in full.values()} == {torch.float32}
    assert all(torch.equal(half[name], full[name].half()) for name in full)
    for name, content in files.items():
        if name.endswith((".json", ".md")):
            for secret in (TOKEN, str(tmp_path), str(Path.home()), "secret-profile", "a dog"):
                assert secret.encode() not in content, (name, secret)

    whole, in_half = snippets(folder / "README.md")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept = "import os\nos.rename('image.png', 'full.png')\n"
    code = f"{whole}{kept}{in_half}assert student.unet.dtype == torch.float16\n"
    strange(code, elsewhere, HF_TOKEN=TOKEN)
    for name in ("full.png", "image.png"):
        with Image.open(elsewhere / name) as image:
            assert image.size == (16, 16)

    local = fetch_inputs(changed(text, evaluate={"student": pushed}), "evaluate")
    student = load_student(local.evaluate.student, local.teacher)
    assert torch.equal(student.unet.conv_in.weight, full["conv_in.weight"])


def test_a_run_starts_from_a_student_on_the_hub_and_from_one_in_several_files(hub, tmp_path):
    teacher, student = save_tiny(tmp_path / "model"), save_tiny(tmp_path / "student", seed=1)
    sharded = shutil.copytree(student, tmp_path / "sharded")
    (sharded / "unet/diffusion_pytorch_model.safetensors").unlink()
    weights = load_student(student).unet
    weights.save_pretrained(sharded / "unet", max_shard_size="20KB")
    config = Config.model_validate({"data": {"name": None}, "teacher": {"output": str(teacher)}})
    places = [str(student), f"hf://owner/student@{hub.add('owner/student', student)}", str(sharded)]
    marks = []
    for place in places:
        config = changed(config, distill={"start_from": place})
        new = new_student(load_teacher(config.teacher), config.network, 0)
        assert not torch.equal(new.unet.conv_in.weight, weights.conv_in.weight)
        earlier = InitFrom(config.distill, config.teacher, config.s3)
        earlier.load(new, new)
        assert torch.equal(new.unet.conv_in.weight, weights.conv_in.weight), place
        marks.append(earlier.fingerprint())
    assert marks[0] == marks[1] != marks[2]
    part = max((sharded / "unet").glob("*-of-*.safetensors"))
    part.write_bytes(part.read_bytes() + b" ")
    assert earlier.fingerprint() != marks[2], "all of its files tell it from another"
