"""Hooks: what one sees of a run, when, and what its error does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.methods.dmd import DMD
from pipeline.runs.checkpoint import read_part
from pipeline.runs.events import FILE, read_event
from pipeline.runs.run import Run
from pipeline.training import hooks, loop
from pipeline.training.hooks import Hook, register_hook
from pipeline.utils.untrusted import read_lines


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(hooks, "HOOKS", dict(hooks.HOOKS))


class Diary(Hook):
    """Writes down all calls."""

    def __init__(self):
        self.calls = []

    def after_student_update(self, step):
        self.calls.append(("student", step))

    def after_step(self, step, result):
        assert result.figures
        self.calls.append(("step", step))

    def at_checkpoint(self, step):
        self.calls.append(("checkpoint", step))

    def __enter__(self):
        self.calls.append("enter")
        return self

    def __exit__(self, *error):
        self.calls.append("exit")

    def steps(self, call: str) -> list[int]:
        return [each[1] for each in self.calls if each[0] == call]


def registered_diary() -> list[Diary]:
    diaries = []

    @register_hook("diary")
    def new_diary(distill, training):
        diaries.append(Diary())
        return diaries[-1]

    return diaries


def events(config) -> list:
    return read_lines((Path(config.distill.output) / FILE).read_bytes(), read_event)[0]


def test_a_registered_hook_sees_steps_student_updates_and_checkpoints_on_resume_too(tiny_run):
    diaries, config, answers = registered_diary(), tiny_run(), iter([False, True])
    loop.train(config, lambda: next(answers))
    loop.train(config)
    first, second = diaries
    assert first.steps("step") == [1, 2, 3, 4]
    assert first.steps("student") == [1, 2, 3, 4]
    assert first.steps("checkpoint") == [2, 4]
    assert second.steps("step") == [5, 6, 7, 8, 9, 10]
    assert second.steps("student") == [7, 8, 9, 10], "steps 5 and 6 teach the critic alone"
    assert second.steps("checkpoint") == [6, 8, 10]
    assert second.calls[-4:] == [("student", 10), ("step", 10), ("checkpoint", 10), "exit"]
    assert [diary.calls[0] for diary in diaries] == ["enter", "enter"]


def test_a_run_does_without_a_hook_that_its_settings_leave_out(tiny_run):
    @register_hook("with wandb")
    def new_hook(distill, training):
        return Diary() if distill.wandb else None

    assert loop.train(tiny_run()) == 10


def test_the_average_is_updated_before_other_hooks_and_before_the_critic(tiny_run):
    @register_hook("weights")
    class Weights(Hook):
        def __init__(self, distill, training):
            self.training = training
            self.before = self.now()

        def now(self):
            networks = self.training.state.networks
            return {
                name: torch.cat([value.flatten().clone() for value in each.parameters()])
                for name, each in networks.items()
            }

        def after_student_update(self, step):
            self.between = self.now()

        def after_step(self, step, result):
            after = self.now()
            if step > 6:
                between, before = self.between, self.before
                for name in ("student", "ema"):
                    assert not torch.equal(between[name], before[name])
                    assert torch.equal(between[name], after[name])
                assert torch.equal(between["critic"], before["critic"])
                assert not torch.equal(between["critic"], after["critic"])
            self.before = after

    assert loop.train(tiny_run()) == 10


def test_no_network_changes_but_after_hooks_are_told(tiny_run):
    """So a copy of the old weights can be made until then."""
    seen = {}

    @register_hook("weights")
    class Weights(Hook):
        def __init__(self, distill, training):
            self.state = training.state

        def before_update(self, step):
            now = {name: value.clone() for name, value in self.state.tensors().items()}
            seen.setdefault(step, []).append(now)

        def after_step(self, step, result):
            self.before_update(step)

    assert loop.train(tiny_run()) == 10
    assert [len(told) - 1 for told in seen.values()] == [1] * 6 + [2] * 4
    for step in range(2, 11):
        before, now = seen[step - 1][-1], seen[step][0]
        assert all(torch.equal(value, now[name]) for name, value in before.items())
    changed = {name for name, value in now.items() if not torch.equal(value, seen[10][1][name])}
    assert changed and not any(name.startswith("critic") for name in changed)


def test_a_student_that_skips_a_step_is_averaged_as_it_was(tiny_run, monkeypatch):
    diaries, loss = registered_diary(), DMD.student_loss

    def spoilt(self, *args):
        found = loss(self, *args)
        done = len(diaries[0].steps("step"))
        return replace(found, total=found.total * float("nan")) if done == 2 else found

    monkeypatch.setattr(DMD, "student_loss", spoilt)
    config = tiny_run()
    loop.train(config)
    assert diaries[0].steps("student") == [1, 2, 3, 4, 7, 8, 9, 10]
    assert diaries[0].steps("step") == list(range(1, 11))
    with Run(config).checkpoints.newest() as found:
        assert read_part(found[1], "ema")["n_averaged"].item() == 8


@pytest.mark.parametrize("call", ["after_step", "at_checkpoint"])
def test_what_a_hook_changes_is_in_the_checkpoint_of_that_step(tiny_run, call):
    @register_hook("change")
    class Change(Hook):
        def __init__(self, distill, training):
            self.critic = training.state.networks["critic"]

    def change(self, step, *result):
        with torch.no_grad():
            for weight in self.critic.parameters():
                weight.fill_(step)

    setattr(Change, call, change)
    config = tiny_run()
    loop.train(config)
    with Run(config).checkpoints.newest() as found:
        assert all((value == 10).all() for value in read_part(found[1], "critic").values())


@pytest.mark.parametrize(
    "call", ["before_update", "after_student_update", "after_step", "at_checkpoint"]
)
def test_an_error_of_a_hook_ends_the_run_which_can_go_on(tiny_run, call):
    class Harmed(Diary):
        def __init__(self, distill, training):
            super().__init__()
            diaries.append(self)

    def harm(self, step, *result):
        if step == 8:
            raise ArithmeticError("harmed by a hook")

    diaries, config = [], tiny_run()
    setattr(Harmed, call, harm)
    register_hook("harm")(Harmed)
    with pytest.raises(ArithmeticError, match="harmed by a hook"):
        loop.train(config)
    assert diaries[0].calls[-1] == "exit"
    failed = events(config)[-1]
    assert failed.kind == "failed" and "harmed by a hook" in failed.error
    assert Run(config).checkpoints.step() == 6
    hooks.HOOKS.clear()
    assert loop.train(config) == 10
