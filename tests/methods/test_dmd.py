"""The method on distributions whose scores are known exactly."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.matching import MATCHING, dmd, matching_gradient
from pipeline.diffusion.noise import EDM, VP, Flow
from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import StepPlan
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.models.loading import load_teacher
from pipeline.runs.identity import definition
from pipeline.training.method import build_method
from pipeline.utils.errors import UserError
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SETTINGS = {
    "regression_steps": 3,
    "burn_in_steps": 2,
    "matching": {"range": (0.02, 0.98)},
    "critic": {"range": (0.02, 0.98)},
}
METHOD = new_method((4, 1, 1), **SETTINGS)


def method_with(**distill) -> DMD:
    return new_method((4, 1, 1), **SETTINGS | distill)


def plan_of(regression: float = 0.0, matching: float = 0.0) -> StepPlan:
    on_pairs = {"regression": regression} if regression else {}
    return StepPlan(on_pairs, {"matching": matching} if matching else {})


def gaussian(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    variances, basis = torch.linalg.eigh(covariance)
    return GaussianMixture(
        mean[None], variances.clamp(min=1e-8)[None], basis[None], (len(mean), 1, 1), EDM()
    )


class LinearSteps(nn.Module):
    """A linear student of its own at each time, whose samples have a covariance in closed form."""

    def __init__(self, times: tuple[float, ...], size: int):
        super().__init__()
        self.times = times
        self.steps = nn.ModuleList(LinearStudent(size) for _ in times)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.steps[self.times.index(float(t[0]))](x_t, t, condition)

    def moments(self, step: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance of a step's images; it is given the last one's with fresh noise."""
        own, size = self.steps[step], len(self.steps[step].shift)
        matrix, mean, covariance = own.matrix.detach(), 0.0, torch.zeros(size, size).double()
        if step:
            mean, covariance = self.moments(step - 1)
        given = covariance / self.times[step] ** 2 + torch.eye(size)
        shift = matrix @ (mean / self.times[step] + torch.zeros(size).double())
        return own.shift.detach() + shift, matrix @ given @ matrix.T


class LinearStudent(nn.Module):
    """x0 = A z + b, from x_t = sigma_max z."""

    def __init__(self, size: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(size, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        z = x_t.flatten(1) / t[:, None]
        return (z @ self.matrix.T + self.shift).view_as(x_t)

    def score(self) -> GaussianMixture:
        """The exact critic: its samples are N(b, A A^T)."""
        matrix = self.matrix.detach()
        return gaussian(self.shift.detach(), matrix @ matrix.T)


def distil_linear(loss: str, refresh_critic: bool, steps: int = 300) -> float:
    """Relative error of the student's covariance after training with exact scores."""
    method = method_with(matching={"loss": loss, "range": (0.02, 0.98)})
    rng = torch.Generator().manual_seed(0)
    factor = torch.randn(4, 4, generator=rng, dtype=torch.float64) * 0.4
    covariance = factor @ factor.T + 0.1 * torch.eye(4, dtype=torch.float64)
    teacher = gaussian(torch.tensor([0.5, -0.5, 0.2, 0.0], dtype=torch.float64), covariance)
    student = LinearStudent(4)
    critic = student.score()
    plan = plan_of(matching=1.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / steps))
        if refresh_critic:
            critic = student.score()
        microbatch = double(method.draw(1024, rng, None))
        optimizer.zero_grad()
        method.student_loss(plan, student, teacher, critic, microbatch).total.backward()
        optimizer.step()
    learnt = (student.matrix @ student.matrix.T).detach()
    return float((learnt - covariance).norm() / covariance.norm())


@pytest.mark.parametrize("loss", [each for each in MATCHING if each != "sgmd"])
def test_with_exact_scores_a_linear_student_learns_the_covariance(loss):
    assert distil_linear(loss, refresh_critic=True) < 0.01


@pytest.mark.parametrize("levels", ["all", "step", "above"])
def test_each_of_several_steps_learns_it_at_the_noise_levels_of_its_own(levels):
    times = (80.0, 4.0, 0.6)
    sampler = FewStepSampler(EDM(), times)
    settings = {**SETTINGS, "student": {"times": list(times), "levels": levels}}
    method = new_method((3, 1, 1), None, sampler, **settings)
    rng = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 3, generator=rng, dtype=torch.float64) * 0.4
    covariance = factor @ factor.T + 0.1 * torch.eye(3, dtype=torch.float64)
    teacher = gaussian(torch.tensor([0.5, -0.5, 0.2], dtype=torch.float64), covariance)
    student, plan = LinearSteps(times, 3), plan_of(matching=1.0)

    def critic(x_t: Tensor, t: Tensor, condition: Condition, step_index: int) -> Tensor:
        return gaussian(*student.moments(step_index))(x_t, t, condition)

    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for step in range(900):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 900))
        microbatch = double(method.draw(512, rng, None, step_index=step % 3))
        optimizer.zero_grad()
        method.student_loss(plan, student, teacher, critic, microbatch).total.backward()
        optimizer.step()
    for step in range(3):
        learnt = student.moments(step)[1]
        assert (learnt - covariance).norm() / covariance.norm() < 0.02, step


def test_with_a_frozen_critic_it_does_not():
    assert distil_linear("dmd", refresh_critic=False) > 0.5


class Noted(nn.Module):
    """A denoiser that notes how it was called."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.calls: list[tuple[tuple[int, ...], bool]] = []

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.calls.append((tuple(x_t.shape), torch.is_grad_enabled()))
        return self.weight * x_t / (1 + t[:, None, None, None])


def lane_with_pairs(fresh: int = 3, stored: int = 2):
    rng = torch.Generator().manual_seed(1)
    noise, images = torch.randn(2, stored, 4, 1, 1, generator=rng)
    pairs = PairBatch(torch.arange(stored), None, noise, images)
    return METHOD.draw(fresh, rng, pairs)


def test_phases_follow_each_other():
    turns = [METHOD.plan(step) for step in range(7)]
    assert [plan.student for plan in turns] == [True] * 3 + [False] * 2 + [True] * 2
    assert [plan.critic for plan in turns] == [False] * 3 + [True] * 4
    assert [plan.on_samples.get("matching", 0) for plan in turns] == [0] * 5 + [1] * 2
    assert [plan.on_pairs.get("regression", 0) for plan in turns] == [1.0] * 3 + [0] * 2 + [
        0.25
    ] * 2


def test_the_student_learns_in_every_nth_step_after_as_many_of_the_critic():
    method = method_with(student={"every": 3})
    turns = [method.plan(step) for step in range(5, 11)]
    assert [plan.student for plan in turns] == [False, False, True] * 2
    assert all(plan.critic for plan in turns)


def test_student_loss_is_the_weighted_sum_of_its_parts_in_one_student_call():
    student, teacher, critic, microbatch = (
        Noted(0.7),
        Noted(0.2),
        Noted(0.5),
        lane_with_pairs(),
    )
    both = METHOD.student_loss(plan_of(0.25, 2.0), student, teacher, critic, microbatch)
    assert student.calls == [((5, 4, 1, 1), True)]
    assert teacher.calls == critic.calls == [((3, 4, 1, 1), False)]
    matching = METHOD.student_loss(plan_of(0.0, 2.0), student, teacher, critic, microbatch).total
    regression = METHOD.student_loss(plan_of(0.25, 0.0), student, teacher, critic, microbatch).total
    torch.testing.assert_close(both.total, matching + regression)
    regression, *rest = METHOD.terms
    constant = replace(regression, distance=lambda x0, _: 3 + 0 * x0.mean())
    other = replace(METHOD, recipe=replace(METHOD.recipe, terms=(constant, *rest)))
    found = other.student_loss(plan_of(0.25, 0.0), student, teacher, critic, microbatch).total
    torch.testing.assert_close(found, torch.full_like(found, 0.75))


def test_only_the_student_gets_gradients_in_its_turn():
    student, teacher, critic = Noted(0.7), Noted(0.2), Noted(0.5)
    METHOD.student_loss(
        plan_of(0.25, 1.0), student, teacher, critic, lane_with_pairs()
    ).total.backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None and critic.weight.grad is None


def test_gradient_is_fake_minus_real_over_the_mean_distance():
    x0, real, fake = torch.randn(3, 5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    x0.requires_grad_()
    dmd(x0, real, fake).mean().backward()
    size = (x0.detach() - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(x0.grad * x0.numel(), (fake - real) / size)


def test_gradient_vanishes_where_critic_and_teacher_agree():
    x0, real = torch.randn(2, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert not matching_gradient(x0, real, real).any()
    assert matching_gradient(real, real, x0).isfinite().all()
    with pytest.raises(ValueError, match="shapes differ"):
        matching_gradient(x0, real, real[:1])


def test_draws_depend_on_the_generator_alone():
    def draw(seed: int) -> list[Tensor]:
        microbatch = METHOD.draw(6, torch.Generator().manual_seed(seed), None)
        return [
            microbatch.noise,
            microbatch.matching.t,
            microbatch.matching.eps,
            microbatch.critic.t,
            microbatch.critic.eps,
        ]

    assert all(torch.equal(a, b) for a, b in zip(draw(3), draw(3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(draw(3), draw(4), strict=True))


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        (EDM(), (80.0, 4.0, 0.6)),
        (VP(torch.linspace(0.999, 0.004, 1000)), (999.0, 499.0, 249.0)),
        (Flow(shift=3.0), (1.0, 0.8, 0.5)),
    ],
    ids=["EDM", "VP", "Flow"],
)
@pytest.mark.parametrize("levels", ["all", "step", "above"])
def test_noise_levels_are_those_of_the_step_and_of_the_range(schedule, times, levels):
    sampler = FewStepSampler(schedule, times)
    student = {"times": list(times), "levels": levels}
    settings = {"matching": {"range": (0.1, 0.9)}, "critic": {"range": (0.02, 0.98)}}
    method = replace(
        new_method((1, 1, 1), None, sampler, student=student, **settings), schedule=schedule
    )

    def part(time: float) -> float:
        return schedule.fraction_from_time(torch.tensor(time, dtype=torch.float64)).item()

    for step, (own, then) in enumerate(pairwise((*times, None))):
        drawn = method.draw(4000, torch.Generator().manual_seed(0), step_index=step)
        for t, (low, high) in ((drawn.matching.t, (0.1, 0.9)), (drawn.critic.t, (0.02, 0.98))):
            if levels != "all" and then is not None:
                low = max(low, part(then))
            if levels == "step":
                high = min(high, part(own))
            found = schedule.fraction_from_time(t)
            assert low - 1e-3 <= found.min() < low + 0.01
            assert high - 0.01 < found.max() <= high + 1e-3


def test_times_stay_in_their_ranges():
    method = method_with(matching={"range": (0.2, 0.75)}, critic={"range": (0.1, 0.9)})
    microbatch = method.draw(1000, torch.Generator().manual_seed(0), None)
    for times, (low, high) in (
        (microbatch.matching.t, (0.2, 0.75)),
        (microbatch.critic.t, (0.1, 0.9)),
    ):
        ends = METHOD.schedule.time_from_fraction(torch.tensor([low, high]))
        assert ends[0] <= times.min() and times.max() <= ends[1]
        assert times.min() < ends[0] * 1.2 and times.max() > ends[1] / 1.2


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"levels": "step"}, "levels: step is of several steps, and the student has one"),
        (
            {"levels": "above", "times": [80.0, 5.0], "renoise": False},
            "levels: above takes what fresh noise makes of .* set distill.student.renoise to true",
        ),
    ],
)
def test_levels_of_steps_need_steps_and_fresh_noise(student, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"distill": {"student": student}})


def test_a_range_without_a_level_of_a_step_is_refused(tiny_run):
    student = {"times": [80.0, 40.0, 5.0], "levels": "step"}
    for ranges, message in (
        ({"matching": {"range": (0.02, 0.98)}}, "critic.range: .* 0.88 to 1.00 .* step at 80"),
        ({"critic": {"range": (0.02, 0.98)}}, "matching.range: .* 0.88 to 1.00 .* step at 80"),
    ):
        config = tiny_run(student=student, **ranges)
        with pytest.raises(UserError, match=message):
            build_method(config.distill, load_teacher(config.teacher), torch.device("cpu"))


def test_levels_are_part_of_a_run_only_where_they_are_chosen(tiny_run):
    def told(levels: str) -> dict[str, object]:
        student = {"times": [80.0, 5.0], "levels": levels}
        return definition(tiny_run(student=student))["distill"]["student"]

    assert told("step")["levels"] == "step" and "levels" not in told("all")
