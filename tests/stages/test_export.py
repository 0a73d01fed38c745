"""Students of checkpoints, taken out of a run that has not ended."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.storage import Storage
from pipeline.models.students import load_student
from pipeline.runs.checkpoint import read_student
from pipeline.runs.checkpoint_store import Score
from pipeline.runs.run import Run
from pipeline.stages.export import export
from pipeline.training import loop
from pipeline.utils.errors import UserError


def asked(config: Config, **settings) -> Config:
    tree = config.model_dump(mode="json")
    tree["export"] |= settings
    return Config.model_validate(tree)


def stored(config: Config, step: int, weights: str = "ema") -> dict[str, Tensor]:
    checkpoints = Run(config).checkpoints
    name = next(each.name for each in checkpoints.commits() if each.step == step)
    with checkpoints.newest(only=name) as found:
        return read_student(found[1], weights)


def same(student: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


@pytest.fixture
def going(tiny_run) -> Config:
    """A run of ten steps that left after eight."""
    config = tiny_run(keep=4)
    told = iter([False, False, False, True])
    assert loop.train(config, lambda: next(told)) == 8
    return config


def test_the_newest_student_of_a_run_that_has_not_ended(going):
    export(going)
    assert not Run(going).is_finished()
    assert same(load_student(going.export.output), stored(going, 8))


def test_a_step_and_its_weights_are_chosen(going):
    export(asked(going, step=4))
    student = load_student(going.export.output)
    assert same(student, stored(going, 4)) and not same(student, stored(going, 8))
    export(asked(going, weights="raw"))
    student = load_student(going.export.output)
    assert same(student, stored(going, 8, "raw")) and not same(student, stored(going, 8))


def test_the_best_one_is_picked(tiny_run):
    config = tiny_run(keep=3, scoring={"count": 10}, pick="best")
    loop.train(config)
    for commit in Run(config).checkpoints.commits():
        Run(config).checkpoints.note(commit, Score(abs(commit.step - 8), 10))
    export(config)
    assert same(load_student(config.export.output), stored(config, 8))


def test_to_a_bucket(going, bucket):
    config = asked(going, output="s3://bucket/one/export")
    export(config)
    export(config)
    there = Storage(config.export.output, config.s3, "export.output")
    assert {"model_index.json", "provenance.json", "unet/config.json"} <= there.tree().keys()


def test_what_cannot_be_exported_is_said(tiny_run, going):
    with pytest.raises(UserError, match="export.step: 5 has no checkpoint; .* those of 2, 4, 6, 8"):
        export(asked(going, step=5))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        export(tiny_run("empty"))
    Run(going).claim()
    with pytest.raises(
        UserError, match=r"distill\.clip 10\.0, not 1\.0; its own: --config .*config\.yaml"
    ):
        export(tiny_run(keep=4, clip=1.0))
    torn = next(Path(going.distill.output).glob("checkpoints/0000004-*/*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-10])
    with pytest.raises(UserError, match="checkpoint of step 4 is torn"):
        export(asked(going, step=4))
    assert not Path(going.export.output).exists()
    Path(going.export.output).mkdir()
    (Path(going.export.output) / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"export.output: .*/export is in use by something else"):
        export(going)
    assert (Path(going.export.output) / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "made", [{}, {"package": "icons", "size": 16}, {"seed": 0, "training": {}}]
)
def test_only_a_student_is_replaced(going, made):
    folder = Path(going.export.output)
    export(going)
    export(going)
    (folder / "provenance.json").write_text(json.dumps(made))
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}
    with pytest.raises(UserError, match=r"export.output: .*/export is in use by something else"):
        export(asked(going, step=4))
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before
