"""A small text-to-image teacher: trained, broken off, opened by diffusers and by ours."""

import json
import math
import shutil
from functools import reduce
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.data.storage import Storage
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_teacher
from pipeline.models.students import new_student
from pipeline.models.weights import weights_digest
from pipeline.runs.card import CardWriter
from pipeline.stages import teacher as stage
from pipeline.stages.icons import make_icons
from pipeline.stages.teacher import make_teacher
from pipeline.training import from_scratch
from pipeline.utils.errors import UserError
from tests.fixtures.icons import configured


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = configured(tmp_path_factory.mktemp("text") / "whole")
    make_icons(config)
    make_teacher(config)
    return config


def files(config: Config) -> dict[str, bytes]:
    folder = Path(config.teacher.output)
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.safetensors")}


def changed(config: Config, run: str) -> Config:
    """The same, elsewhere, on the same images."""
    tree = config.model_dump(mode="json")
    tree["teacher"]["output"] = str(Path(config.run).parent / run)
    return Config.model_validate(tree)


def test_its_students_card_shows_captions_figures_and_whose_images_it_learnt_from(
    trained: Config, tmp_path: Path
) -> None:
    teacher = fetch_inputs(trained, "teacher").teacher
    network = load_teacher(teacher)
    student = new_student(network, trained.network, 0, trained.distill.student)
    folder, evaluation = tmp_path / "student", tmp_path / "evaluation"
    save_denoiser(student, str(folder), {"steps": 1})
    evaluation.mkdir()
    (evaluation / "captions.png").write_bytes(b"rows")
    found = {"student": weights_digest(folder), "names_seen": {"teacher": 0.5}, "metrics": {}}
    (evaluation / "evaluation.json").write_text(json.dumps(found))
    run = Storage(str(tmp_path / "run"), trained.s3, "distill.output")
    cards = CardWriter(teacher, trained.teacher.output, evaluation, run)
    cards.write(folder, student, {"steps": 1}, 1, "student")
    text = (folder / "README.md").read_text()
    assert "| names_seen, teacher | 0.5 |" in text.replace("\\", "")
    assert f"- {(student.prompts or ())[0]}" in text
    assert "images of emojione, MIT, Author" in text
    assert (folder / "captions.png").read_bytes() == b"rows" and "](captions.png)" in text


class KilledError(Exception):
    pass


def killed(*_: object) -> None:
    raise KilledError


@pytest.mark.parametrize("saves", [1, 3, 5])
def test_broken_off_it_ends_with_the_same_bits(trained, monkeypatch, saves):
    """In the VAE, then in the network: states are those of steps 2, 4; 2, 4, 6."""
    broken, save, done = changed(trained, f"broken-{saves}"), from_scratch._save, []

    def dying(*arguments: object) -> None:
        save(*arguments)
        done.append(arguments[1])
        if len(done) == saves:
            raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(from_scratch, "_save", dying)
        make_teacher(broken)
    assert not any(Path(broken.teacher.output).iterdir())
    make_teacher(broken)
    assert files(broken) == files(trained)
    assert not stage._states(broken.teacher).exists(), "states are removed at the end"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("seed", 7, "seed 0, not 7"),
        ("teacher.training.lr", 1e-3, r"training\.lr "),
        ("teacher.training.steps", 4, r"training\.steps 6, not 4"),
        ("teacher.training.text.dropout", 0.3, r"text\.dropout "),
        ("images", None, "images '"),
        ("teacher.training.text.workers", 1, None),
        ("teacher.training.text.checkpoint_every", 3, None),
    ],
)
def test_a_training_goes_on_with_its_own_settings_and_images_alone(
    trained, tmp_path, path, value, told
):
    images, tree = tmp_path / "images", trained.model_dump(mode="json")
    shutil.copytree(tree["data"]["folder"], images)
    tree["data"]["folder"] = str(images)
    tree["teacher"]["output"] = str(tmp_path / "teacher")
    with pytest.raises(KilledError):
        make_teacher(Config.model_validate(tree), killed)
    if path == "images":
        one, other = sorted(images.glob("*.png"))[:2]
        one.write_bytes(other.read_bytes())
    else:
        *branches, leaf = path.split(".")
        reduce(dict.__getitem__, branches, tree)[leaf] = value
    with pytest.raises(UserError, match=told) if told else pytest.raises(KilledError):
        make_teacher(Config.model_validate(tree), killed)


def test_it_is_a_pipeline_of_diffusers_whose_images_are_ours(trained):
    pipe = StableDiffusionPipeline.from_pretrained(trained.teacher.output)
    pipe.set_progress_bar_config(disable=True)
    network = load_teacher(fetch_inputs(trained, "teacher").teacher)
    assert network.prompts is not None and "a red apple, noto style" in list(network.prompts)
    label = list(network.prompts).index("a red apple, noto style")
    start = torch.randn(1, *network.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = pipe(
            "a red apple, noto style",
            num_inference_steps=4,
            guidance_scale=2.0,
            latents=start,
            output_type="latent",
        ).images
    ours = sample_teacher(network, start, torch.tensor([label]), "euler", 4, 2.0)
    assert (ours - theirs).norm() / theirs.norm() < 1e-4
    latents = network.latents.encode(torch.rand(8, 3, 16, 16) * 2 - 1)
    assert 0.2 < float(latents.std()) < 5


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [from_scratch.ramp(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) > 0.95 and rates[-1] < 1e-5
    assert rates[500] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"data": {"name": "digits", "size": 16}}, r"teacher\.training\.kind"),
        ({"data": {"name": "captions", "size": 10}}, r"data\.size"),
        ({"teacher": {}}, r"data\.name"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(tmp_path, settings, named):
    with pytest.raises(ValueError, match=named):
        configured(tmp_path / "run", **settings)


def test_images_without_captions_are_one_line(trained, tmp_path):
    tree = trained.model_dump(mode="json")
    tree["data"]["folder"] = str(tmp_path)
    tree["teacher"]["output"] = str(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"data\.folder"):
        make_teacher(Config.model_validate(tree))
