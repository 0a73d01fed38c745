"""What a card says of licence and origin, and what of the teacher's folder stays out of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline.config import StudentConfig, TeacherConfig
from pipeline.models.export.card import model_card, read_origin, usage
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from tests.families.builders import BUILDERS
from tests.fixtures.tiny_models import save_tiny

REPO, COMMIT = "owner/name", "1" * 40


def teacher(folder: Path, card: str | None = None, **made: object) -> Path:
    folder.mkdir(exist_ok=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    if made:
        (folder / "provenance.json").write_text(json.dumps(made))
    return folder


def test_the_licence_is_the_teachers(tmp_path: Path) -> None:
    card = "---\nlicense: openrail++\ntags: [a]\n---\n# A model"
    origin = read_origin(teacher(tmp_path, card), REPO, COMMIT)
    assert origin.metadata == {"base_model": REPO, "license": "openrail++"}
    assert REPO in origin.teacher and COMMIT in origin.teacher
    assert origin.terms == "That of the teacher: `openrail++`."


def test_a_link_beside_the_teachers_card_is_made_whole(tmp_path: Path) -> None:
    card = "---\nlicense: other\nlicense_name: flux-nc\nlicense_link: LICENSE.md\n---\n"
    origin = read_origin(teacher(tmp_path, card), REPO, COMMIT)
    assert origin.metadata == {
        "base_model": REPO,
        "license": "other",
        "license_name": "flux-nc",
        "license_link": f"https://huggingface.co/{REPO}/blob/{COMMIT}/LICENSE.md",
    }
    assert "flux-nc" in origin.terms


@pytest.mark.parametrize(
    "card",
    [None, "", "# no metadata", "---\nlicense: [a]\n---\n", "---\n: {\n---\n", "---\n1: 2\n---"],
)
def test_no_licence_is_unknown(tmp_path: Path, card: str | None) -> None:
    origin = read_origin(teacher(tmp_path, card))
    assert origin.metadata == {"license": "unknown"}
    assert origin.terms.startswith("Unknown: that of the teacher")


def test_an_edm_file_is_not_for_trade(tmp_path: Path) -> None:
    origin = read_origin(teacher(tmp_path, imported="edm-x.pkl", sha256="abc"))
    assert origin.metadata == {"license": "cc-by-nc-sa-4.0"}
    assert "edm-x.pkl" in origin.teacher and "abc" in origin.teacher
    assert "non-commercial" in origin.terms


def test_a_teacher_of_ones_own_has_no_licence_yet(tmp_path: Path) -> None:
    origin = read_origin(teacher(tmp_path, training={}, data={"name": "digits"}))
    assert origin.metadata == {} and "digits" in origin.teacher
    assert read_origin(None).metadata == {}


def test_a_card_is_what_the_hub_reads(tiny: Callable[..., UNet2D], tmp_path: Path) -> None:
    origin = read_origin(teacher(tmp_path, "---\nlicense: mit\n---\n"), REPO, COMMIT)
    made = {"steps": 7, "distill": {"lr": 0.1, "range": (0.2, 0.8)}}
    text = model_card(
        tiny(), "me/student", origin, made, {"fd": 0.12345678, "n": 10}, True, ["## More"]
    )
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "base_model": REPO,
        "library_name": "diffusers",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusers", "ray-dmd", "dmd", "distillation", "one-step"],
    }
    for each in (
        "# student\n",
        'from_pretrained("me/student")',
        "![samples](samples.png)",
        "| fd | 0.1235 |\n| n | 10 |",
        "steps: 7\n",
        "range: [0.2, 0.8]",
        "## More",
        "## Licence",
    ):
        assert each in card.text
    plain = ModelCard(model_card(tiny(), "student", origin, made)).text
    assert "## Samples" not in plain and "## Figures" not in plain


def test_each_kind_of_network_is_used_its_own_way(
    tiny: Callable[..., UNet2D], tmp_path: Path
) -> None:
    assert "labels = [0, 1, 2]\n" in usage(tiny(classes=3), "x")
    assert "labels" not in usage(tiny(classes=None), "x")
    for version, call in (
        ("dit", "student([207], num_inference_steps=1, guidance_scale=1.0)"),
        ("flux-dev", "num_inference_steps=1, guidance_scale=3.5)"),
        ("sd3", "num_inference_steps=1, guidance_scale=1.0)"),
    ):
        settings = TeacherConfig(output=str(save_tiny(tmp_path / version, version)))
        assert call in usage(load_teacher(settings), "x")
    song = BUILDERS["song"]
    settings = song.teacher(song.save(tmp_path / "song"), Path())
    assert "import pipeline.models.song_unet" in usage(load_teacher(settings), "x")


@pytest.mark.parametrize("name", ["edm", "consistency", "song", "playground"])
@pytest.mark.parametrize("times", [(2.5,), (60.0, 2.5)])
def test_a_start_that_diffusers_has_not_is_told(
    tmp_path: Path, name: str, times: tuple[float, ...]
) -> None:
    """Its scheduler of EDM puts in noise of variance sigma^2 + 1, which is far off at 2.5."""
    teacher = load_teacher(TeacherConfig(output=str(BUILDERS[name].save(tmp_path / "m"))))
    student = new_student(teacher, None, 0, StudentConfig(times=times))
    told = model_card(student, "x", read_origin(None), {})
    assert "diffusers cannot take this student's steps" in told and "jobs/sample.py" in told
    assert "num_inference_steps" not in told and "from_pretrained" not in told
    noisiest = StudentConfig(times=(teacher.schedule.start,))
    assert "num_inference_steps=1" in usage(new_student(teacher, None, 0, noisiest), "x")
