"""The driver tells the scoring of checkpoints."""

import pytest

from pipeline.cluster import distill
from pipeline.cluster.distill import CheckpointWatch
from pipeline.runs.checkpoint_store import Commit
from pipeline.runs.run import Run
from pipeline.utils.errors import UserError


class Told:
    """Stands in for the scoring."""

    def __init__(self):
        self.steps, self.polls, self.broken = [], 0, False

    def poll(self):
        self.polls += 1

    def at_checkpoint(self, step):
        if self.broken:
            raise UserError("the store is away")
        self.steps.append(step)


@pytest.fixture
def watched(tiny_run, monkeypatch):
    """A run's checkpoints, a watch that never waits, and what it tells."""

    def make(count: int = 10):
        monkeypatch.setattr(distill, "LOOK_SECONDS", 0.0)
        run, told = Run(tiny_run(scoring={"count": count})), Told()
        return run.checkpoints, CheckpointWatch(run, told), told

    return make


def stored(step: int) -> Commit:
    return Commit(step, "attempt", "fingerprint", {})


def test_each_new_checkpoint_is_told_once_and_the_newest_alone(watched):
    history, watch, told = watched()
    watch.look()
    for step in (2, 4):
        history.commit(stored(step))
    watch.look()
    watch.look()
    history.commit(stored(6))
    watch.look()
    assert told.steps == [4, 6]
    assert told.polls == 4


def test_what_the_store_refused_is_told_again(watched, caplog):
    history, watch, told = watched()
    history.commit(stored(2))
    told.broken = True
    watch.look()
    assert "the store is away: looked again later" in caplog.text
    told.broken = False
    watch.look()
    assert told.steps == [2]


def test_without_scores_nothing_is_looked_at(watched):
    history, watch, told = watched(count=0)
    history.commit(stored(2))
    watch.look()
    assert (told.steps, told.polls) == ([], 0)
