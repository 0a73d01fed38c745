"""What a run comes to, what it lacks, and which of its jobs are left."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.stages.plan import Plan

TEXT = {"data": {"name": None}, "teacher": {"output": "model", "prompts": "prompts.txt"}}
GAN = {"gan": {"real": "encoded"}, "regression_steps": 0, "regression": {"weight": 0}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the plan of settings, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(**branches: Any) -> Plan:
        tree: dict[str, Any] = {"run": "run"}
        for name, branch in branches.items():
            tree[name] = branch
        return Plan(Config.model_validate(tree))

    return make


def settings_of(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def jobs_of(plan: Plan) -> dict[str, bool]:
    return {each.job: each.done for each in plan.jobs()}


def save_model(folder: Path, **entries: Any) -> None:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "X", **entries}))


@pytest.mark.parametrize(
    ("branches", "missing"),
    [
        ({}, []),
        ({"teacher": {"kind": "gaussian"}, "data": {"name": None}}, []),
        (TEXT, ["teacher.output", "teacher.prompts"]),
        ({**TEXT, "distill": GAN}, ["teacher.output", "teacher.prompts", "encode.source"]),
        (
            {**TEXT, "distill": GAN, "encode": {"source": "photos"}},
            ["teacher.output", "teacher.prompts", "encode.source"],
        ),
        (
            {**TEXT, "teacher": {"output": "hf://owner/name@main", "prompts": "s3://b/p.txt"}},
            [],
        ),
        (
            {"data": {"name": None}, "teacher": {"file": "own.safetensors", "base": "base"}},
            ["teacher.file", "teacher.base"],
        ),
        ({"data": {"name": "mnist", "folder": "idx"}}, ["data.folder"]),
        ({"distill": {"start_from": "earlier"}}, ["distill.start_from"]),
        (
            {"distill": {"regression": {"distance": "lpips", "lpips": "weights"}}},
            ["distill.regression.lpips"],
        ),
        (
            {"data": {"name": None}, "teacher": {"kind": "gaussian"}}
            | {"evaluate": {"reference": "coco"}},
            ["evaluate.reference"],
        ),
    ],
)
def test_what_is_to_be_given_and_is_not_there_is_named_by_its_setting(
    branches: dict[str, Any], missing: list[str], run: Any
) -> None:
    assert settings_of(run(**branches).problems) == missing


def test_what_is_there_or_comes_of_a_job_is_not_missing(run: Any, tmp_path: Path) -> None:
    listing = {**TEXT["teacher"], "prompts": "run/real/listing.parquet"}
    branches = {**TEXT, "teacher": listing, "distill": GAN, "encode": {"source": "photos"}}
    save_model(tmp_path / "model", tokenizer=["transformers", "CLIPTokenizer"])
    (tmp_path / "photos").mkdir()
    assert run(**branches).problems == []
    (tmp_path / "photos").rmdir()
    (tmp_path / "run" / "real").mkdir(parents=True)
    (tmp_path / "run" / "real" / "manifest-4.json").touch()
    assert run(**branches).problems == [], "the images are encoded already"
    nothing = {**listing, "prompts": None}
    assert settings_of(run(**{**branches, "teacher": nothing}).problems) == ["teacher.prompts"]


def test_a_plan_has_what_its_recipe_needs_and_no_more(run: Any) -> None:
    parts = {
        name: {line.partition(":")[0] for line in run(**branches).lines}
        for name, branches in {
            "regression": TEXT,
            "gan": {**TEXT, "distill": GAN},
            "stored": {**TEXT, "distill": {"conditions": "stored"}},
        }.items()
    }
    common = {"teacher", "distill", "evaluate"}
    assert parts["regression"] == common | {"pairs"}
    assert parts["gan"] == common | {"encode"}
    assert parts["stored"] == common | {"pairs", "embed"}


def test_jobs_come_in_order_and_those_whose_output_is_there_are_done(
    run: Any, tmp_path: Path
) -> None:
    digits = run()
    assert list(jobs_of(digits)) == ["teacher", "doctor", "pairs", "distill", "evaluate", "export"]
    assert not any(jobs_of(digits).values())
    (tmp_path / "run" / "pairs").mkdir(parents=True)
    (tmp_path / "run" / "pairs" / "manifest-5000.json").touch()
    save_model(tmp_path / "run" / "teacher")
    assert {job for job, done in jobs_of(digits).items() if done} == {"teacher", "pairs"}
    stored = run(**TEXT, distill={**GAN, "conditions": "stored"})
    assert list(jobs_of(stored)) == [
        *("encode", "embed", "doctor", "distill", "evaluate", "export")
    ]
    icons = {"name": "captions", "size": 32}
    drawn = run(data=icons, teacher={"training": {"kind": "text"}})
    assert list(jobs_of(drawn))[:3] == ["icons", "teacher", "doctor"]
    told = stored.told(lambda job: f"do {job}")
    commands = [line.split("#")[0].split() for line in told if line.startswith("  ")]
    assert commands == [["do", job] for job in jobs_of(stored)]


def test_a_smaller_set_of_pairs_is_not_the_set_that_is_asked_for(run: Any, tmp_path: Path) -> None:
    (tmp_path / "run" / "pairs").mkdir(parents=True)
    (tmp_path / "run" / "pairs" / "manifest-500.json").touch()
    done = {count: jobs_of(run(pairs={"count": count}))["pairs"] for count in (500, 1000)}
    assert done == {500: True, 1000: False}


def test_bytes_of_pairs_are_told_where_their_shape_is_known(run: Any, tmp_path: Path) -> None:
    """It is not of other sizes than the model's own, nor of latents that are still to be learnt."""
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text('{"in_channels": 4, "sample_size": 8}')

    def told(teacher: dict[str, Any], data: dict[str, Any]) -> str:
        plan = run(teacher=teacher, data=data, pairs={"count": 500})
        line = next(line for line in plan.lines if line.startswith("pairs: 500"))
        return line.partition("in 1 shards")[2]

    text, nothing = TEXT["teacher"], {"name": None}
    assert told(text, nothing) == f", {500 * (2 * 2 * 4 * 8 * 8 + 16)} bytes on disk"
    assert told({**text, "image_size": 128}, nothing) == ""
    assert told({**text, "buckets": [{"size": [64, 128]}]}, nothing) == ""
    assert told({"training": {"kind": "text"}}, {"name": "captions", "size": 32}) == ""
