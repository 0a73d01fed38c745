"""The stored conditions of a run: which are its own, and what tells it from other runs."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pipeline.config import Config, S3Config
from pipeline.data.plans import ConditionPlan
from pipeline.models.encoders import condition_plan
from pipeline.runs.conditions import RunConditions
from pipeline.runs.identity import definition
from pipeline.runs.run import Run
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.in_process import embed_prompts


@pytest.fixture
def config(tiny_model, prompts, tmp_path) -> Config:
    """A run that would read stored conditions, which are not there yet, and no pairs."""
    folder = shutil.copytree(tiny_model(BUILDERS["z-image"]), tmp_path / "model")
    teacher = BUILDERS["z-image"].teacher(folder, prompts)
    return Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": teacher.model_dump(),
            "distill": {
                "conditions": "stored",
                "regression": {"weight": 0.0},
                "regression_steps": 0,
            },
        }
    )


def conditions_of(config: Config) -> RunConditions:
    return RunConditions(config.embed.output, config.teacher, S3Config())


def changed(config: Config, **branches: dict) -> Config:
    tree = config.model_dump(mode="json")
    for name, branch in branches.items():
        tree[name] |= branch
    return Config.model_validate(tree)


def test_no_set_is_one_line(config):
    for call in (Run(config).claim, Run(config).load_teacher, lambda: definition(config)):
        with pytest.raises(UserError, match="no complete condition set in .*: run jobs/embed.py"):
            call()
    embed_prompts(config.embed.output, config.teacher)
    Run(config).claim()


def test_a_set_of_anything_else_is_one_line_that_says_what(config, tmp_path):
    embed_prompts(config.embed.output, config.teacher, "bf16")
    assert conditions_of(config).check().startswith("3 prompts in ")
    (tmp_path / "other.prompts").write_text('"a cow"\n"a dog"\n"a cat"\n')
    folder = Path(config.teacher.output)

    def told(path: str, config: Config = config) -> str:
        file, before = folder / path, (folder / path).read_bytes()
        file.write_bytes(before + b"\n")
        with pytest.raises(UserError) as found:
            Run(config).claim()
        file.write_bytes(before)
        assert "\n" not in str(found.value) and "run jobs/embed.py" in str(found.value)
        return str(found.value)

    assert "another text encoder: " in told("text_encoder/model.safetensors")
    assert "another tokenizer: " in told("tokenizer/tokenizer.json")
    assert "another chat template: " in told("tokenizer/chat_template.jinja")
    for teacher, word in (
        ({"prompts": str(tmp_path / "other.prompts")}, "another teacher.prompts: "),
        ({"negative_prompt": "dark"}, "another teacher.negative_prompt: 'blurry', not 'dark'"),
    ):
        with pytest.raises(UserError, match=word):
            Run(changed(config, teacher=teacher)).claim()
    shard = next(Path(config.embed.output).glob("*.parquet"))
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        Run(config).claim()


def test_the_set_belongs_to_the_runs_definition_and_its_size_of_shards_too(config, tmp_path):
    """An online run's definition has nothing of it: old runs stay what they are."""
    online = changed(config, distill={"conditions": "online"})
    before = definition(online)
    assert "conditions" not in before and "conditions" not in before["distill"]
    embed_prompts(config.embed.output, config.teacher, "bf16")
    assert definition(online) == before
    stored = definition(config)
    assert stored.pop("conditions")["count"] == 4 and stored == before
    Run(config).claim()
    Run(config).claim()
    another = str(tmp_path / "exact")
    embed_prompts(another, config.teacher, "fp32")
    with pytest.raises(UserError, match=r"distill.output: .*conditions\.plan"):
        Run(changed(config, embed={"output": another})).claim()
    with pytest.raises(UserError, match=r"distill.output: .*conditions\.plan"):
        Run(online).claim()
    mark = json.loads((Path(config.distill.output) / "run.json").read_text())
    assert set(mark["conditions"]) == {"plan", "count"}


def test_a_teacher_without_prompts_has_no_stored_conditions(config):
    with pytest.raises(ValueError, match="distill.conditions: stored needs teacher.kind diffusers"):
        changed(config, teacher={"kind": "gaussian"})


@pytest.mark.parametrize(
    "field", [f.name for f in fields(ConditionPlan) if f.name not in ("precision", "shard_size")]
)
def test_every_field_of_a_sets_plan_is_held_to_the_teachers(config, monkeypatch, field):
    """But for how its values are stored, which any run can read."""
    embed_prompts(config.embed.output, config.teacher)

    def another(*given: object) -> ConditionPlan:
        return replace(condition_plan(*given), **{field: "another"})

    monkeypatch.setattr("pipeline.runs.conditions.condition_plan", another)
    with pytest.raises(UserError, match=r"embed\.output: .* of another .* not 'another'; choose"):
        Run(config).claim()


def test_images_of_another_size_are_told(tiny_model, prompts, tmp_path):
    builder = BUILDERS["wan-image-small"]
    teacher = builder.teacher(tiny_model(builder), prompts)
    embed_prompts(str(tmp_path / "set"), teacher)
    larger = teacher.model_copy(update={"image_size": (5, 64, 32)})
    RunConditions(str(tmp_path / "set"), teacher, S3Config()).check()
    with pytest.raises(UserError, match=r"another reader of images.*teacher\.image_size"):
        RunConditions(str(tmp_path / "set"), larger, S3Config()).check()
