"""The driver tells the scoring of checkpoints."""

from types import SimpleNamespace

import pytest

from pipeline.cluster import distill
from pipeline.cluster.distill import LOOK_SECONDS, CheckpointWatch
from pipeline.runs.checkpoint_store import CheckpointStore, Commit
from pipeline.runs.run import Run
from pipeline.utils.errors import UserError


class Told:
    """Stands in for the scoring; `broken` is the method that the store refuses."""

    def __init__(self):
        self.steps, self.polls, self.broken, self.busy = [], 0, "", False

    def poll(self):
        self.polls += 1
        self._refuse("poll")
        return self.busy

    def at_checkpoint(self, step):
        self._refuse("at_checkpoint")
        self.steps.append(step)

    def _refuse(self, method):
        if self.broken == method:
            raise UserError("the store is away")


class Watched:
    """A run's checkpoints, their watch on a clock of its own, and what it tells."""

    def __init__(self, config, monkeypatch):
        run, self.told, self.now = Run(config), Told(), 100.0
        self.fingerprint = run.fingerprint
        monkeypatch.setattr(distill, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.checkpoints, self.watch = run.checkpoints, CheckpointWatch(run, self.told)

    def store(self, step: int) -> None:
        self.checkpoints.commit(Commit(step, "1f2e3d4c", self.fingerprint, {"a": "0" * 64}))

    def look(self, after: float = LOOK_SECONDS) -> None:
        self.now += after
        self.watch.look()


@pytest.fixture
def watched(tiny_run, monkeypatch):
    return lambda count=10: Watched(tiny_run(scoring={"count": count}), monkeypatch)


def test_each_new_checkpoint_is_told_once_and_the_newest_alone(watched):
    run = watched()
    run.look()
    for step in (2, 4):
        run.store(step)
    run.look()
    run.look()
    run.store(6)
    run.look()
    assert run.told.steps == [4, 6]
    assert run.told.polls == 4


def test_between_looks_time_passes(watched):
    run = watched()
    run.look()
    run.store(2)
    for _ in range(3):
        run.look(after=0.3 * LOOK_SECONDS)
    assert (run.told.steps, run.told.polls) == ([], 1)
    run.look(after=0.2 * LOOK_SECONDS)
    assert (run.told.steps, run.told.polls) == ([2], 2)


def test_while_one_is_measured_the_store_is_left_alone(watched, monkeypatch):
    run = watched()
    run.store(2)
    run.told.busy = True
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "commits", lambda _: pytest.fail("asked the store"))
        run.look()
    run.told.busy = False
    run.look()
    assert run.told.steps == [2]


def test_what_the_store_refused_is_told_again(watched, caplog):
    run = watched()
    run.store(2)
    run.told.broken = "at_checkpoint"
    run.look()
    assert "the store is away: looked again later" in caplog.text
    run.told.broken = ""
    run.look()
    run.look()
    assert run.told.steps == [2]
    run.told.broken = "poll"  # took a score, and could not begin with the next checkpoint
    run.look()
    run.told.broken = ""
    run.look()
    run.look()
    assert run.told.steps == [2, 2]


def test_without_scores_nothing_is_looked_at(watched):
    run = watched(count=0)
    run.store(2)
    run.look()
    assert (run.told.steps, run.told.polls) == ([], 0)
