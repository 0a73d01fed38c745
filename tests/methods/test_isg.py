"""A step comes where it would by way of the teacher, on Gaussians whose ODE is a line."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition, Inputs
from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch
from pipeline.methods.samples import Source
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.training.method import build_method
from pipeline.utils.errors import UserError
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SHAPE, ROWS, WEIGHT = (2, 2, 2), 5, 0.3
EDM_TIMES, FLOW_TIMES = (80.0, 5.0, 0.5), (1.0, 0.8, 0.4)
CASES = {
    "EDM": (EDM(), EDM_TIMES),
    "VP": (VP(torch.linspace(0.999, 0.004, 1000)), (999.0, 499.0, 249.0)),
    "Flow": (Flow(shift=3.0), FLOW_TIMES),
}


def gaussian(mean: float, variance: float, schedule: Schedule) -> GaussianMixture:
    means = torch.full((1, 8), mean, dtype=torch.float64)
    return GaussianMixture(means, torch.full_like(means, variance), None, SHAPE, schedule)


def method_of(schedule: Schedule, times: tuple[float, ...] | None) -> DMD:
    student = {"times": list(times)} if times else {}
    sampler = FewStepSampler(schedule, times) if times else None
    terms = {"isg": {"weight": WEIGHT}}
    settings = {"matching": {"weight": 0.0}, "regression": {"weight": 0.0}}
    method = new_method(SHAPE, 1, sampler, student=student, terms=terms, **settings)
    return replace(method, schedule=schedule)


def drawn(method: DMD, step_index: int) -> Microbatch:
    own = method.draw(ROWS, torch.Generator().manual_seed(3), step_index=step_index)
    return double(replace(own, draws={"isg": own.draws["isg"].double()}))


@pytest.mark.parametrize("index", range(3))
def test_the_gradient_is_the_closed_form_in_sigmas(index):
    """A step of Euler takes x - mean to a multiple of itself."""
    method = method_of(EDM(), EDM_TIMES)
    one = drawn(method, index)
    here, there = [*EDM_TIMES, 0.0][index : index + 2]
    middle = one.draws["isg"].view(ROWS, 1, 1, 1)
    rng = torch.Generator().manual_seed(1)
    x0, x_t = torch.randn(2, ROWS, *SHAPE, generator=rng).double() * 3

    def moved(x: Tensor, mean: float, variance: float, start, end) -> Tensor:
        kept = end / start + (1 - end / start) * variance / (variance + start**2)
        return mean + kept * (x - mean)

    target = moved(moved(x_t, 0.4, 0.09, here, middle), -0.2, 0.3, middle, there)
    apart = there / here * x_t + (1 - there / here) * x0 - target
    inputs = Inputs(x_t, x_t.new_full((ROWS,), here), one.condition)
    source = Source(gaussian(-0.2, 0.3, EDM()), inputs)
    found, logged = method._sample_gradient(
        method.plan(0), gaussian(0.4, 0.09, EDM()), None, x0, one, source
    )
    distance = (apart**2 + 1e-6).sqrt()
    expected = WEIGHT * (1 - there / here) * apart / distance / x0.numel()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(logged["isg"], (distance - 1e-3).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("index", range(3))
def test_under_flow_it_is_the_authors_loss_on_what_the_student_was_given(index):
    """Theirs is of velocities; its gradient by the student's weights, through the whole turn."""
    flow = Flow(shift=3.0)
    method = method_of(flow, FLOW_TIMES)
    one, teacher = drawn(method, index), gaussian(0.4, 0.09, flow)
    here, there = [*FLOW_TIMES, 0.0][index : index + 2]
    middle = one.draws["isg"].view(ROWS, 1, 1, 1)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    asked = []

    def student(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        asked.append((t, torch.is_grad_enabled()))
        return weight * x_t / (1 + t[:, None, None, None])

    method.student_loss(method.plan(0), student, teacher, None, one).total.backward()
    found, weight.grad = weight.grad, None
    *before, own, last = asked
    assert [grad for _, grad in before] == [False] * index
    assert own[1] and own[0].tolist() == [here] * ROWS
    assert not last[1] and torch.equal(last[0], one.draws["isg"])

    def velocity(network, x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - network(x_t, t, one.condition)) / t[:, None, None, None]

    x_t = method.sampler.input(student, one.noise, one.condition, index).detach()
    now = x_t.new_full((ROWS,), here)
    with torch.no_grad():
        x_mid = x_t + (middle - here) * velocity(teacher, x_t, now)
        target = x_mid + (there - middle) * velocity(student, x_mid, one.draws["isg"])
    came = x_t + (there - here) * velocity(student, x_t, now)
    (WEIGHT * (((came - target) ** 2 + 1e-6).sqrt() - 1e-3).mean()).backward()
    assert found.abs() > 1e-3
    torch.testing.assert_close(found, weight.grad, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("schedule", "times"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("steps", ["several", "one"])
def test_its_times_are_within_the_segment(schedule, times, steps):
    times = times if steps == "several" else None
    method = method_of(schedule, times)
    starts = torch.tensor(times or (schedule.start,), dtype=torch.float64)
    ends = [*schedule.fraction_from_time(starts).tolist(), 0.0]
    for index, (high, low) in enumerate(zip(ends, ends[1:], strict=False)):
        one = method.draw(2000, torch.Generator().manual_seed(0), step_index=index)
        found = schedule.fraction_from_time(one.draws["isg"])
        part = (found - low) / (high - low)
        assert 0.195 < part.min() < 0.22 and 0.78 < part.max() < 0.805


@pytest.mark.parametrize(
    ("name", "times", "taken"),
    [
        ("EDM", (2.5,), True),
        ("VP", (999.0, 499.0), True),
        ("VP", (399.0,), False),
        ("Flow", (1.0, 0.5), True),
        ("Flow", (0.7, 0.3), False),
    ],
)
def test_a_first_input_that_is_not_on_the_teachers_way_is_refused(name, times, taken):
    schedule = CASES[name][0]
    distill = method_of(schedule, times).recipe.distill
    with nullcontext() if taken else pytest.raises(UserError, match="terms.isg: .*begin distill"):
        build_method(distill, gaussian(0.4, 0.09, schedule), torch.device("cpu"))
