"""The critic's weights follow the student's: by how much, which of them, and when."""

import pytest
import torch
from torch import Tensor

from pipeline.training import hooks, loop
from pipeline.training.build import prepare
from pipeline.training.hooks import Hook, register_hook
from pipeline.training.ida import IDA
from tests.fixtures.trained import digests

KEEP, BOTH = 0.9, 7
"""A share, and a step, counted from 1, after which both networks have learnt."""
HEADS = {
    "student": {"times": [80.0, 3.0]},
    "regression": {"weight": 0.0},
    "gan": {"real": "pairs"},
}


def weights(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def common(critic: dict[str, Tensor]) -> dict[str, str]:
    """Names of the critic's weights that the student has too, with the student's names."""
    own = {name: name.removeprefix("denoiser.") for name in critic}
    return {name: theirs for name, theirs in own.items() if not name.startswith(("heads", "exits"))}


@pytest.mark.parametrize(
    "settings", [{}, HEADS, {**HEADS, "precision": "bf16"}], ids=["plain", "heads", "bf16"]
)
def test_common_weights_move_by_their_share_and_others_stay(tiny_run, settings):
    training = prepare(tiny_run(**settings))
    student, critic = (training.state.networks[name] for name in ("student", "critic"))
    with torch.no_grad():
        for weight in (*student.parameters(), *critic.parameters()):
            weight.add_(torch.randn_like(weight))
    training.step.critic.renew()
    before, theirs = weights(critic), weights(student)
    IDA(KEEP, training).after_student_update(BOTH)
    after, names = weights(critic), common(before)
    assert set(names.values()) == theirs.keys()
    assert (len(names) < len(after)) == bool(settings)
    for name, value in after.items():
        expected = before[name]
        if name in names:
            expected = KEEP * expected + (1 - KEEP) * theirs[names[name]]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    for name, value in weights(training.step.critic.bare).items():
        assert torch.equal(value, after[name].to(value.dtype))
    assert all(torch.equal(theirs[name], value) for name, value in weights(student).items())


def test_in_a_run_it_follows_the_students_update_once_both_learn(tiny_run, monkeypatch):
    monkeypatch.setattr(hooks, "HOOKS", dict(hooks.HOOKS))
    moved = []

    @register_hook("weights")
    class Weights(Hook):
        def __init__(self, distill, training):
            self.networks = training.state.networks
            self.critic = weights(self.networks["critic"])

        def after_student_update(self, step):
            now, student = weights(self.networks["critic"]), weights(self.networks["student"])
            for name, value in now.items():
                pulled = KEEP * self.critic[name] + (1 - KEEP) * student[name]
                expected = pulled if step > 6 else self.critic[name]
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
            moved.append(step)

        def after_step(self, step, result):
            self.critic = weights(self.networks["critic"])

    assert loop.train(tiny_run(critic={"ida": KEEP})) == 10
    assert moved == [1, 2, 3, 4, 7, 8, 9, 10]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_broken_run_ends_with_the_same_bits(tiny_run, precision):
    settings = {**HEADS, "critic": {"ida": KEEP}, "precision": precision}
    whole, broken, without = (
        tiny_run(name, **settings | more)
        for name, more in (("whole", {}), ("broken", {}), ("without", {"critic": {}}))
    )
    loop.train(whole)
    answers = iter([False, False, False, True])
    assert loop.train(broken, lambda: next(answers)) == 8
    loop.train(broken)
    loop.train(without)
    assert digests(whole) == digests(broken) != digests(without)


def test_without_it_there_is_none(tiny_run, monkeypatch):
    monkeypatch.setattr(loop, "IDA", None)
    assert loop.train(tiny_run()) == 10
