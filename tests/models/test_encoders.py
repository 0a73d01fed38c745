"""The plan of a set of conditions covers all that makes them, and no more."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pipeline.config import BucketConfig, TeacherConfig
from pipeline.data.plans import ConditionPlan
from pipeline.models import encoders
from pipeline.models.loading import load_teacher
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS

TEXT = ("text_encoder", "tokenizer")
SIDES, VIDEOS = ((32, 64), (64, 32)), ((5, 16, 32), (5, 32, 16))


@pytest.fixture
def settings(tiny_model, prompts, tmp_path):
    """Of a copy of a tiny model, to be changed."""

    def make(version: str) -> TeacherConfig:
        folder = shutil.copytree(tiny_model(BUILDERS[version]), tmp_path / version)
        return BUILDERS[version].teacher(folder, prompts)

    return make


def planned(teacher: TeacherConfig) -> ConditionPlan:
    return encoders.condition_plan(teacher, "bf16", 10)


@pytest.mark.parametrize("version", ["sdxl", "sana", "z-image"])
def test_every_file_of_encoders_and_tokenizers_counts_and_no_other(version, settings):
    """Such as weights of the backbone or the VAE: teachers with the same encoders share a set."""
    teacher = settings(version)
    before, folder = planned(teacher), Path(teacher.output)
    unread = ("generation_config.json", *((".jinja",) if version != "z-image" else ()))
    for file in folder.rglob("*.*"):
        part = file.parent.name
        if file.name == "model_index.json" or file.name.endswith(unread):
            continue
        if part in ("scheduler", "transformer", "unet", "vae") and file.suffix == ".json":
            continue
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        assert (planned(teacher) != before) == part.startswith(TEXT), file
        file.write_bytes(content)
    assert planned(teacher) == before


def test_prompts_negative_prompt_template_and_flags_count(settings, tmp_path):
    teacher = settings("z-image")
    before = asdict(planned(teacher))
    (tmp_path / "other.prompts").write_text('"a cow"\n')

    def differing(**values: object) -> set[str]:
        after = asdict(planned(teacher.model_copy(update=values)))
        return {key for key in after if after[key] != before[key]}

    assert differing() == set()
    assert differing(prompts=str(tmp_path / "other.prompts")) == {"prompts", "count"}
    assert differing(negative_prompt="a cow") == {"negative_prompt"}
    assert differing(image_size=32, embedded_guidance=1.0) == set(), "they are the network's"
    (Path(teacher.output) / "tokenizer" / "chat_template.jinja").write_text("another")
    assert differing() == {"template"}
    xl = settings("sdxl")
    index = Path(xl.output) / "model_index.json"
    plan = planned(xl)
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"force_zeros_for_empty_prompt": False})
    )
    assert planned(xl).pipeline != plan.pipeline


@pytest.mark.parametrize(
    "version", ["sd1", "lcm", "flux-dev", "flux-schnell", "flux2-klein", "sd3"]
)
def test_encoders_alone_encode_as_the_teacher_does_and_load_no_backbone(version, settings):
    teacher = settings(version)
    whole = load_teacher(teacher).conditioner
    for part in ("unet", "transformer"):
        for file in (Path(teacher.output) / part).glob("*.safetensors"):
            file.unlink()
    alone, plan = encoders.load_prompts(teacher), planned(teacher)
    assert list(alone.prompts) == list(whole.prompts)
    assert alone.guidable == whole.guidable == (plan.negative_prompt is not None)
    assert plan.rows == plan.count + whole.guidable == len(whole.prompts) + whole.guidable
    cpu = torch.device("cpu")
    one, other = (each.row(0, cpu) for each in (alone, whole))
    assert all(one[name].equal(other[name]) for name in other.tensors)


@pytest.mark.parametrize(("version", "sizes"), [("qwen-edit", SIDES), ("wan-image", VIDEOS)])
def test_images_beside_prompts_have_the_size_of_one_bucket(version, sizes, settings):
    teacher = settings(version)
    named, bucketed = (
        [teacher.model_copy(update={"image_size": None} | update) for update in updates]
        for updates in (
            [{"image_size": size} for size in sizes],
            [{"buckets": (BucketConfig(size=size),)} for size in sizes],
        )
    )
    assert [planned(each) for each in bucketed] == [planned(each) for each in named]
    assert planned(bucketed[0]) != planned(bucketed[1])
    cpu = torch.device("cpu")
    one, other = (encoders.load_prompts(each[1]).row(0, cpu) for each in (named, bucketed))
    assert one.tensors.keys() == other.tensors.keys()
    assert all(one[name].equal(other[name]) for name in one.tensors)


@pytest.mark.parametrize(
    ("version", "scale"),
    [
        *(("sd1", 7.5), ("lcm", 1), ("sdxl", 5), ("qwen", 4), ("hunyuan-video", 6)),
        *(("flux-schnell", 1), ("flux-dev", 1), ("flux2-klein", 4), ("dit", 1), ("ddpm", 1)),
    ],
)
def test_guidance_is_what_the_pipeline_does_by_itself(version, scale, settings):
    """1 of those that were distilled with it, are told it, or know classes or nothing."""
    teacher = settings(version)
    for file in Path(teacher.output).rglob("*.safetensors"):
        file.unlink()
    assert encoders.own_guidance(teacher) == scale


def test_a_pipeline_that_says_that_it_was_distilled_guides_by_nothing(settings):
    teacher = settings("flux2-klein")
    index = Path(teacher.output) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"is_distilled": True}))
    assert encoders.own_guidance(teacher) == 1


def test_what_takes_no_prompts_or_has_none_is_one_line(settings):
    with pytest.raises(UserError, match="teacher.output: .*takes no prompts"):
        planned(settings("ddpm"))
    with pytest.raises(UserError, match="teacher.prompts: .*takes text"):
        planned(settings("sd1").model_copy(update={"prompts": None}))
    with pytest.raises(UserError, match="no model at"):
        planned(TeacherConfig(output="/nowhere"))
