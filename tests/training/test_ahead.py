"""Microbatches drawn ahead: the same ones, by a thread that leaves with the loop."""

import threading
from collections import defaultdict
from dataclasses import replace

import pytest

from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.training.step import TrainStep
from pipeline.utils.errors import UserError
from tests.fixtures.trained import digests


class Draws:
    """Watches who draws which step's microbatches; steps are counted from 0.

    Attributes:
        steps: Those drawn, in their order.
        threads: That drew them.
        begun: Set as a step's drawing begins.
        lost: A step whose pairs cannot be read.
    """

    def __init__(self, monkeypatch):
        self.steps, self.threads, self.lost = [], [], None
        self.begun = defaultdict(threading.Event)
        prepare = loop.prepare

        def watched(config):
            training = prepare(config)

            def draw(step):
                self.steps.append(step)
                self.threads.append(threading.current_thread())
                self.begun[step].set()
                if step == self.lost:
                    raise UserError(f"the pairs of step {step} are lost")
                return training.microbatches(step)

            return replace(training, microbatches=draw)

        monkeypatch.setattr(loop, "prepare", watched)


@pytest.fixture
def draws(monkeypatch) -> Draws:
    return Draws(monkeypatch)


def test_the_next_step_is_drawn_while_this_one_runs_and_none_beyond_the_last(
    tiny_run, draws, monkeypatch
):
    whole = TrainStep.__call__

    def step(self, number, *rest):
        assert number == 9 or draws.begun[number + 1].wait(20)
        assert not draws.begun[number + 2].is_set()
        return whole(self, number, *rest)

    monkeypatch.setattr(TrainStep, "__call__", step)
    assert loop.train(tiny_run()) == 10
    assert draws.steps == list(range(10))
    assert set(draws.threads).isdisjoint(threading.enumerate())
    assert threading.current_thread() not in draws.threads


def test_they_are_those_drawn_in_their_turn_bit_for_bit(tiny_run, monkeypatch):
    recipe = {"gan": {"real": "pairs", "student_weight": 0.1}}
    ahead, in_turn = (tiny_run(name, **recipe) for name in ("ahead", "turn"))
    loop.train(ahead)

    def draw(training, steps):
        yield from map(training.microbatches, steps)

    monkeypatch.setattr(loop, "draw_ahead", draw)
    loop.train(in_turn)
    assert digests(ahead) == digests(in_turn)


def test_an_error_ends_the_run_at_its_step(tiny_run, draws):
    config = tiny_run(checkpoint_every=1)
    draws.lost = 6
    with pytest.raises(UserError, match="the pairs of step 6 are lost"):
        loop.train(config)
    assert Run(config).checkpoints.step() == 6, "as many are done"
    assert set(draws.threads).isdisjoint(threading.enumerate())
    draws.lost = None
    assert loop.train(config) == 10


def test_a_run_that_leaves_or_fails_takes_its_thread_along(tiny_run, draws, monkeypatch):
    config = tiny_run()
    assert loop.train(config, lambda: True) == 2
    assert set(draws.threads).isdisjoint(threading.enumerate())
    assert draws.steps == [0, 1, 2]

    def broken(*_):
        raise ArithmeticError("harmed")

    with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
        patch.setattr(TrainStep, "__call__", broken)
        loop.train(config)
    assert set(draws.threads).isdisjoint(threading.enumerate())
    assert loop.train(config) == 10
