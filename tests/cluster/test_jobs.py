"""Pairs and distillation through a real Ray cluster.

A process that Ray starts takes ten seconds to import torch and diffusers: so one finished run
serves all tests that only read it, and a job that is to fail has one worker.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.cluster.distill import distill
from pipeline.cluster.pairs import make_pairs
from pipeline.cluster.scoring import Scoring
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.reader import PairReader
from pipeline.data.storage import Storage
from pipeline.models.students import load_student
from pipeline.runs.checkpoint import read_part
from pipeline.runs.run import Run
from pipeline.utils.errors import UserError


def config_at(run: Path, **branches: dict) -> Config:
    tree = {
        "run": str(run),
        "data": {"name": None},
        "network": {"channels": [8], "attention": [False], "norm_groups": 4},
        "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 3}},
        "pairs": {"count": 96, "shard_size": 16, "steps": 3},
        "distill": {
            "steps": 8,
            "regression_steps": 3,
            "burn_in_steps": 2,
            "batch_size": 8,
            "regression": {"batch_size": 8},
            "log_every": 2,
            "sample_every": 4,
            "checkpoint_every": 4,
        },
    }
    for name, branch in branches.items():
        tree[name] = tree[name] | branch
    return Config.model_validate(tree)


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory) -> Config:
    """A run whose pairs two actors made, and two workers its student."""
    config = config_at(tmp_path_factory.mktemp("finished") / "run")
    make_pairs(config)
    distill(config)
    return config


@pytest.fixture
def copied(finished, tmp_path) -> Callable[..., Config]:
    """Copies that run for a test that harms it; `distill` as overridden."""

    def make(**distill: object) -> Config:
        shutil.copytree(finished.run, tmp_path / "run")
        return config_at(tmp_path / "run", distill=distill)

    return make


@pytest.fixture
def paired(finished, tmp_path) -> Callable[..., Config]:
    """Copies its pairs for a run of one worker, which has no student yet."""

    def make(**distill: object) -> Config:
        shutil.copytree(finished.pairs.output, tmp_path / "run" / "pairs")
        return config_at(tmp_path / "run", distill={"workers": {"max": 1}, **distill})

    return make


def test_pairs_then_a_student_and_a_second_run_does_nothing(finished, capfd):
    store = Storage(finished.pairs.output, finished.s3, "pairs.output")
    manifest = shards.read_manifest(store)
    assert [shard.first for shard in manifest.shards] == list(range(0, 96, 16))
    reader = PairReader(store, seed=0, batch_size=96)
    assert sorted(reader.batch(0).ids.tolist()) == list(range(96))

    lines = (Path(finished.distill.output) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]
    assert load_student(finished.evaluate.student).shape == (1, 4, 4)

    capfd.readouterr()
    make_pairs(finished)
    distill(finished)
    assert "is finished already" in capfd.readouterr().out


@pytest.mark.cluster
def test_checkpoints_are_scored_on_other_resources_and_the_best_is_saved(paired, capfd):
    config = paired(steps=12, scoring={"count": 96}, pick="best")
    distill(config)
    printed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("score ")]
    checkpoints = Run(config).checkpoints
    scores = checkpoints.scores(checkpoints.commits())
    best = checkpoints.best(checkpoints.commits())
    assert checkpoints.commits()[0].name in scores, "the last one waits for its score"
    # an early one may be gone before its score comes
    assert len(printed) >= len(scores) and any("the best so far" in line for line in printed)
    with checkpoints.newest(only=best.name) as found:
        average = read_part(found[1], "ema")
    for name, value in load_student(config.evaluate.student).state_dict().items():
        assert torch.equal(value, average[f"module.{name}"])
    capfd.readouterr()
    distill(config)
    assert "is finished already" in capfd.readouterr().out


def test_a_score_that_fails_costs_nothing_else(copied, caplog):
    config = copied(scoring={"count": 10})
    torn = next(Path(config.distill.output).glob("checkpoints/0000008-*/*.safetensors"))
    torn.unlink()
    Scoring(Run(config)).finish()
    assert "step 8 has no score: the checkpoint 0000008" in caplog.text
    names = [path.name[:7] for path in Path(config.distill.output).glob("checkpoints/*.score")]
    assert names == ["0000004"]


def test_a_bad_shard_is_the_users_error_not_a_ray_traceback(paired):
    config, name = paired(), "pairs-000000000000-000000000016.parquet"
    (Path(config.pairs.output) / name).write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=name):
        distill(config)


@pytest.mark.cluster
def test_a_node_that_does_not_see_the_run_refuses(paired, monkeypatch):
    monkeypatch.setattr(Run, "claim", lambda _: None)  # as on a disk of the driver alone
    with pytest.raises(UserError, match="distill.output: node .* does not see .*share"):
        distill(paired())


def test_another_seed_in_the_same_folder_is_refused(copied):
    with pytest.raises(UserError, match="seed 0, not 1"):
        make_pairs(copied().model_copy(update={"seed": 1}))


@pytest.mark.cluster
def test_what_an_actor_refuses_ends_the_job_with_its_message(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "open_plan", lambda *_: None)  # as on a disk of the driver alone
    with pytest.raises(UserError, match="pairs.output: node .* does not see .*plan.json"):
        make_pairs(config_at(tmp_path / "run", pairs={"actors": {"max": 1}}))
