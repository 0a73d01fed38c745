"""Pairs that fail or do not come: what the driver and an actor make of it."""

import threading
from pathlib import Path

import pytest
import torch

from pipeline.cluster import pool
from pipeline.cluster.pairs import make_pairs
from pipeline.config import Config
from pipeline.data.local import LocalStore
from pipeline.stages.pairs import PairMaker
from pipeline.utils.errors import UserError


@pytest.fixture
def config(tmp_path) -> Config:
    return Config.model_validate(
        {
            "run": str(tmp_path),
            "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 3}},
            "pairs": {"count": 80, "shard_size": 16, "steps": 3},
        }
    )


@pytest.fixture
def in_process(monkeypatch):
    """One actor in this process, in place of the cluster's."""

    def make(todo, work):
        actor = pool.Actor(work)
        for index in todo:
            row = actor({"index": [index]})
            yield {name: values[0] for name, values in row.items()}

    monkeypatch.setattr(pool, "_rows", make)


def failing(monkeypatch, failures: dict[int, int], error: Exception) -> list[int]:
    """Let shards fail so many times; returns the shards tried."""
    plain, tried = PairMaker.make, []

    def make(self, index):
        tried.append(index)
        if tried.count(index) <= failures.get(index, 0):
            raise error
        return plain(self, index)

    monkeypatch.setattr(PairMaker, "make", make)
    return tried


def test_a_finished_set_is_not_written_to(in_process, config, refuse_writes, capsys):
    make_pairs(config)
    refuse_writes()
    make_pairs(config)
    assert capsys.readouterr().out.count("pairs  80 pairs in 5 shards") == 2
    more = {"pairs": config.pairs.model_copy(update={"count": 160})}
    for changed in (config.model_copy(update=more), config.model_copy(update={"seed": 1})):
        with pytest.raises(UserError, match="cannot write .probe"):
            make_pairs(changed)


def test_a_shard_that_fails_now_and_then_is_tried_again(in_process, config, monkeypatch):
    tried = failing(monkeypatch, {1: 2, 3: 1}, RuntimeError("out of luck"))
    make_pairs(config)
    assert tried == [0, 1, 1, 1, 2, 3, 3, 4]
    assert "manifest-80.json" in LocalStore(Path(config.pairs.output)).list()


def test_a_bad_shard_is_reported_after_all_others_are_made(in_process, config, monkeypatch):
    failing(monkeypatch, {1: 99, 3: 99}, RuntimeError("a wall"))
    with pytest.raises(
        UserError, match=r"2 of 5 shards failed, .*1: RuntimeError: a wall \(3 times"
    ):
        make_pairs(config)
    stored = LocalStore(Path(config.pairs.output)).list()
    assert len([name for name in stored if name.endswith(".parquet")]) == 3
    assert "manifest-80.json" not in stored


def test_a_shard_that_cannot_but_fail_is_tried_once(in_process, config, monkeypatch):
    """Its values follow from the plan; the others are made first."""
    tried = failing(monkeypatch, {1: 99}, FloatingPointError("values that are not finite"))
    with pytest.raises(UserError, match="1 of 5 shards failed, .*shard 1: FloatingPointError: val"):
        make_pairs(config)
    assert tried == [0, 1, 2, 3, 4]


def test_what_the_user_can_mend_ends_the_job_at_once(in_process, config, monkeypatch):
    tried = failing(monkeypatch, {1: 99}, UserError("disk full"))
    many = {"pairs": config.pairs.model_copy(update={"count": 1600})}
    with pytest.raises(UserError, match="disk full") as refused:
        make_pairs(config.model_copy(update=many))
    assert refused.tb and "pairs" not in {each.name for each in threading.enumerate()}
    assert tried.count(1) == 1, "it is not tried again"
    assert len(tried) < 100, "the others are left"


def test_a_batch_that_memory_does_not_hold_ends_the_job_with_the_way_out(
    in_process, config, monkeypatch
):
    failing(monkeypatch, {0: 99}, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(UserError, match="pairs.batch_size: memory .* 250 pairs.*null"):
        make_pairs(config)


def test_a_job_without_progress_ends_with_a_message(config, monkeypatch):
    hung = threading.Event()

    def hang(*_):
        hung.wait()
        yield from ()

    monkeypatch.setattr(pool, "_rows", hang)
    patience = {"pairs": config.pairs.model_copy(update={"patience": 0.2})}
    with pytest.raises(UserError, match="pairs.patience 0.2 seconds: pairs.actors needs"):
        make_pairs(config.model_copy(update=patience))
    hung.set()
