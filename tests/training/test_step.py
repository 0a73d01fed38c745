"""The optimiser step: order, lanes, clipping."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch, NoiseSample
from pipeline.training.step import Trained, TrainStep
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SHAPE = (1, 2, 2)


class Small(nn.Module):
    """A nonlinear denoiser of 2x2 images."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 4)).double()

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        scaled = x_t.flatten(1) / (1 + t[:, None])
        return self.net(torch.cat([scaled, t[:, None].log()], 1)).view_as(x_t)


def new_step(count: int, clip: float = 1e9, **method) -> TrainStep:
    settings = {
        "burn_in_steps": 1,
        "regression": {"weight": 0.0},
        "matching": {"range": (0.2, 0.8)},
        "critic": {"range": (0.2, 0.8)},
    }
    dmd = new_method(SHAPE, **(settings | method))
    student, critic = Small(1), Small(2)

    def trained(network: nn.Module, rate: float) -> Trained:
        return Trained(network, torch.optim.SGD(network.parameters(), lr=0.0), lambda step: rate)

    return TrainStep(
        method=dmd,
        student=trained(student, 0.1),
        critic=trained(critic, 0.01),
        teacher=Small(3).requires_grad_(False),
        accelerator=Accelerator(cpu=True),
        microbatches=count,
        clip=clip,
    )


def microbatch(number: int, count: int = 4) -> Microbatch:
    dmd = new_step(1).method
    return double(dmd.draw(count, torch.Generator().manual_seed(number), None))


def join(lanes: list[Microbatch]) -> Microbatch:
    def draw(name: str) -> NoiseSample:
        draws = [getattr(each, name) for each in lanes]
        return NoiseSample(
            torch.cat([each.t for each in draws]), torch.cat([each.eps for each in draws])
        )

    noise = torch.cat([each.noise for each in lanes])
    return Microbatch(noise, Condition(), matching=draw("matching"), critic=draw("critic"))


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_lanes_add_up_to_the_whole_batch():
    split, whole = new_step(4), new_step(1)
    lanes = [microbatch(number) for number in range(4)]
    for step in range(5):
        a, b = split(step, dict(enumerate(lanes))).figures, whole(step, {0: join(lanes)}).figures
        for name in ("critic", "critic_norm"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=0)
    for name in ("student", "critic"):
        parts = (weights(getattr(split, name).network), weights(getattr(whole, name).network))
        torch.testing.assert_close(*parts, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("matching_weight", [1.0, 0.0])
def test_critic_learns_the_samples_from_before_the_students_update(monkeypatch, matching_weight):
    weight = {
        "matching": {"weight": matching_weight},
        "regression": {"weight": 1.0 - matching_weight},
    }
    step = new_step(1, burn_in_steps=0, **weight)
    noise, images = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(9)).double()
    one = replace(
        microbatch(0),
        pairs=PairBatch(torch.arange(3), None, noise, images),
        pairs_condition=Condition(),
    )
    before = step.method.samples(step.student.network, one)
    seen = []
    critic_loss = DMD.critic_loss

    def spy(self, critic, samples, microbatch):
        seen.append((samples, weights(step.student.network)))
        return critic_loss(self, critic, samples, microbatch)

    monkeypatch.setattr(DMD, "critic_loss", spy)
    old = weights(step.student.network)
    step(0, {0: one})
    samples, student = seen[0]
    torch.testing.assert_close(samples, before, rtol=0, atol=0)
    assert not torch.equal(student, old), "the student learns first"
    assert not samples.requires_grad


def test_burn_in_leaves_the_student_alone():
    step = new_step(1)
    student, critic = weights(step.student.network), weights(step.critic.network)
    logged = step(0, {0: microbatch(0)}).figures
    assert torch.equal(weights(step.student.network), student)
    assert not torch.equal(weights(step.critic.network), critic)
    assert set(logged) == {"critic", "critic_norm"}


def test_teacher_never_and_critic_in_the_students_turn_never_hold_a_gradient(monkeypatch):
    step = new_step(1, burn_in_steps=0)
    update = TrainStep._update

    def spy(self, name, trained, *rest, **named):
        result = update(self, name, trained, *rest, **named)
        assert all(p.grad is None for p in self.teacher.parameters())
        if trained is self.student:
            assert all(p.grad is None for p in self.critic.network.parameters())
        return result

    monkeypatch.setattr(TrainStep, "_update", spy)
    for number in range(3):
        step(number, {0: microbatch(number)})


@pytest.mark.parametrize("clip", [1e9, 1e-3])
def test_gradient_is_clipped_to_its_norm(clip):
    step = new_step(1, clip=clip)
    old = weights(step.critic.network)
    norm = step(0, {0: microbatch(0)}).figures["critic_norm"]
    moved = (weights(step.critic.network) - old).norm() / 0.01
    torch.testing.assert_close(moved, norm.clamp(max=clip), rtol=1e-3, atol=0)
