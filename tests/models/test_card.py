"""What a card says of licence and origin, and what of the teacher's folder stays out of it."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from markdown_it import MarkdownIt

from pipeline.config import StudentConfig, TeacherConfig, settings_yaml
from pipeline.models.export.card import Origin, model_card, read_origin, usage
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from tests.families.builders import BUILDERS
from tests.fixtures.tiny_models import save_tiny

REPO, COMMIT = "owner/name", "1" * 40
BASE = {"base_model": REPO, "base_model_relation": "finetune"}
EVIL = (
    "\n```\n\n# loud\n\n<script>a()</script> `b` [c](javascript:d()) ![e](//f) | g |\n---\nh: i\n"
    'https://evil.example <https://evil.example> __j__ &lt;img&gt; \x00"); import os #'
)


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
    assert origin.metadata == {**BASE, "license": "openrail++"}
    assert origin.name == "name"
    assert REPO in origin.teacher and COMMIT in origin.teacher
    assert origin.terms == "That of the teacher: `openrail++`."


def test_a_link_beside_the_teachers_card_is_made_whole(tmp_path: Path) -> None:
    card = "---\nlicense: other\nlicense_name: flux-nc\nlicense_link: LICENSE.md\n---\n"
    origin = read_origin(teacher(tmp_path, card), REPO, COMMIT)
    assert origin.metadata == {
        **BASE,
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


def test_a_model_from_one_file_is_no_edm_file(tmp_path: Path) -> None:
    origin = read_origin(teacher(tmp_path, imported="my.safetensors", sha256="abc", base="def"))
    assert origin.metadata == {"license": "unknown"}
    assert "my.safetensors" in origin.teacher and "EDM" not in origin.teacher


def test_a_teacher_of_ones_own_has_no_licence_yet(tmp_path: Path) -> None:
    origin = read_origin(teacher(tmp_path, training={}, data={"name": "digits"}))
    assert origin.metadata == {} and "digits" in origin.teacher
    assert read_origin(None).metadata == {}
    (tmp_path / "sources.json").write_text('[{"set": "noto", "licence": "Apache-2.0"}, 3]')
    assert read_origin(tmp_path).terms.endswith("It learnt from images of noto, Apache-2.0.")


def test_a_card_is_what_the_hub_reads(tiny: Callable[..., UNet2D], tmp_path: Path) -> None:
    origin = read_origin(teacher(tmp_path, "---\nlicense: mit\n---\n"), REPO, COMMIT)
    made = {"steps": 7, "distill": {"lr": 0.1, "range": (0.2, 0.8)}}
    text = model_card(
        tiny(), "me/student", origin, made, {"fd": 0.12345678, "n": 10}, True, ["## More"]
    )
    card = ModelCard(text)
    assert ModelCardData(**card.data.to_dict()).to_dict() == card.data.to_dict()
    assert card.data.to_dict() == {
        **BASE,
        "library_name": "diffusers",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusers", "ray-dmd", "distillation", "dmd", "one-step"],
    }
    for each in (
        "# name in one step (DMD)\n",
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


@pytest.mark.parametrize(
    ("distill", "method"),
    [
        ({}, "DMD"),
        ({"regression": {"weight": 0.25}, "gan": {"real": None}}, "DMD"),
        ({"regression": {"weight": 0.0}}, "DMD2"),
        (
            {"regression": {"weight": 0.25}, "gan": {"real": "pairs", "divergence": "reverse-kl"}},
            "DMD2",
        ),
        ({"gan": {"real": "data", "divergence": "js"}}, "f-distill"),
        ({"matching": {"loss": "sid"}}, "SiD"),
        ({"augmentation": {"weight": 1.0}}, "Decoupled-DMD"),
        ({"gan": None, "matching": 7}, "DMD"),
    ],
)
def test_the_title_names_teacher_steps_and_method(
    distill: dict[str, object], method: str, tmp_path: Path
) -> None:
    sd3 = TeacherConfig(output=str(save_tiny(tmp_path / "sd3", "sd3")))
    teacher = load_teacher(sd3)
    times = StudentConfig(times=(1.0, 0.5))
    student = new_student(teacher, None, 0, times)
    card = ModelCard(
        model_card(student, "me/x", read_origin(tmp_path / "sd3"), {"distill": distill})
    )
    assert card.text.strip().startswith(f"# StableDiffusion3 in 2 steps ({method})\n")
    assert {"2-step", "dmd", method.lower()} <= set(card.data.tags)
    assert card.data.pipeline_tag == "text-to-image"
    student.lora = {"w": torch.zeros(1)}
    origin = Origin("a model", "mine", "My *SDXL*")
    more = ModelCard(model_card(student, "x", origin, {"distill": distill}))
    assert more.text.strip().startswith(f"# My \\*SDXL\\* in 2 steps ({method}, LoRA)\n")
    assert "lora" in more.data.tags


def shape(card: str) -> list[tuple[str, str, object]]:
    """Blocks and spans of a card's Markdown, and where they lead."""
    blocks = MarkdownIt().enable("table").parse(ModelCard(card).text)
    spans = [span for block in blocks for span in block.children or ()]
    return [(each.type, each.tag, each.attrs) for each in (*blocks, *spans) if each.tag]


def test_words_of_others_stay_words(tiny: Callable[..., UNet2D], tmp_path: Path) -> None:
    """Names in files of the teacher and the evaluation, and of folders: data, not Markdown."""

    def written(text: str) -> list[str]:
        """Cards with the text wherever a stranger's can be."""
        terms = {"license": "other", "license_name": text, "license_link": text}
        card = f"---\n{settings_yaml.dump(terms)}---\n{text}"
        (tmp_path / "sources.json").write_text(json.dumps([{"set": text, "licence": text}]))
        teachers = ({"imported": text, "sha256": text}, {"training": 1, "data": {"name": text}})
        origins = [read_origin(teacher(tmp_path, card, **made)) for made in teachers]
        made = {"note": text, "list": [text], text: 1}
        figures = {"features": text, text: 1.5}
        return [model_card(tiny(), text, each, made, figures) for each in origins]

    for calm, evil in zip(written("calm"), written(EVIL), strict=True):
        assert shape(evil) == shape(calm)
        (code,) = (each.content for each in MarkdownIt().parse(evil) if each.info == "python")
        tree = list(ast.walk(ast.parse(code)))
        assert EVIL in [each.value for each in tree if isinstance(each, ast.Constant)]
        assert not [each for each in tree if isinstance(each, ast.Import)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("license", EVIL),
        ("license", "mit\n# loud"),
        ("license", 10**5 * "x"),
        ("license_name", EVIL),
        ("license_link", "javascript:alert(1)"),
        ("license_link", "data:text/html,x"),
        ("license_link", "LICENSE)[x](y"),
        ("license_link", "https://host/\n---\nlicense: mit"),
    ],
)
def test_terms_that_are_none_are_left_out(tmp_path: Path, name: str, value: str) -> None:
    card = {"license": "other", "license_name": "flux-nc", "license_link": "LICENSE.md"}
    card[name] = value
    origin = read_origin(teacher(tmp_path, f"---\n{settings_yaml.dump(card)}---\n"), REPO, COMMIT)
    if name == "license":
        assert origin.metadata["license"] == "unknown" and origin.terms.startswith("Unknown")
    else:
        assert name not in origin.metadata and origin.metadata["license"] == "other"


@pytest.mark.parametrize(
    "content",
    [
        2000 * "[",
        "{" + 10**5 * '"a":{',
        "[NaN]",
        '{"imported": NaN}',
        '{"data": [1]}',
        b"\xff",
        "[]",
    ],
)
@pytest.mark.parametrize("name", ["provenance.json", "README.md"])
def test_files_of_a_teacher_that_cannot_be_read_tell_nothing(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    assert read_origin(tmp_path).metadata == {"license": "unknown"}
    if name == "README.md":
        (tmp_path / name).write_bytes(b"---\nlicense: " + data + b"\n---\n")
        assert read_origin(tmp_path).metadata == {"license": "unknown"}
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/dev/zero")
        assert read_origin(tmp_path).metadata == {"license": "unknown"}


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
    counts_from_0 = save_tiny(tmp_path / "z-image", "z-image")
    settings = TeacherConfig(output=str(counts_from_0), image_size=16)
    assert "guidance_scale=0.0)" in usage(load_teacher(settings), "x")
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
