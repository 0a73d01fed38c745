"""The first of several steps goes where the teacher's ODE goes, and matching leaves it alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.diffusion.noise import EDM, Flow
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch
from pipeline.methods.terms.diversity import Way
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.models.loading import load_teacher
from pipeline.training.method import build_method
from pipeline.utils.errors import UserError
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SHAPE, ROWS, WEIGHT = (2, 2, 2), 5, 0.3
MEAN, VARIANCE, TIMES = 0.4, 0.09, (80.0, 5.0, 0.5)
OWN = {"weight": WEIGHT, "steps": 12, "anchor": 4}


def gaussian() -> GaussianMixture:
    mean = torch.full((1, 8), MEAN, dtype=torch.float64)
    return GaussianMixture(mean, torch.full_like(mean, VARIANCE), None, SHAPE)


def method_of(**diversity: object) -> DMD:
    sampler = FewStepSampler(EDM(), TIMES, renoise=False)
    terms = {"diversity": OWN | diversity}
    return new_method(SHAPE, 1, sampler, student={"times": list(TIMES)}, terms=terms)


def drawn(method: DMD, step_index: int = 0) -> Microbatch:
    rng = torch.Generator().manual_seed(3)
    return double(method.draw(ROWS, rng, step_index=step_index))


def anchor(noise: Tensor) -> Tensor:
    """Of one Gaussian, where each step of Euler shrinks x - mean by a factor."""
    times = EDM().times(12)[:5].tolist()
    kept = 1.0
    for here, there in pairwise(times):
        kept *= there / here + (1 - there / here) * VARIANCE / (VARIANCE + here**2)
    return MEAN + kept * (80 * noise - MEAN)


def target(noise: Tensor) -> Tensor:
    """What one straight line from the noise, of slope (x - x0) / sigma, takes to the anchor."""
    there = EDM().times(12)[4].item()
    return (anchor(noise) - there * noise) / (1 - there / 80)


class Never(nn.Module):
    """A critic that must not be asked."""

    def forward(self, *given: object) -> Tensor:
        raise AssertionError


def test_the_first_steps_gradient_is_the_closed_form_and_no_other_loss_is_in_it():
    method = method_of()
    one, plan = drawn(method), method.recipe.at(method.plan(0), 0)
    assert plan.on_samples == {"diversity": WEIGHT}
    x0 = torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    found, logged = method._sample_gradient(plan, gaussian(), Never(), x0, one)
    apart = x0 - target(one.noise)
    torch.testing.assert_close(found, WEIGHT * 2 * apart / x0.numel(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(logged["diversity"], apart.square().mean(), rtol=1e-5, atol=0)


def test_a_student_that_hits_the_target_is_where_the_teacher_is():
    """Its own step of DDIM comes to the teacher's point of the ODE; under flow by the velocity."""
    method = method_of()
    one = drawn(method)
    *_, term = method.terms
    there = term.way(EDM())[-1].item()
    at = FewStepSampler(EDM(), (80.0, there), renoise=False)
    hit = term.target(Seen(one, EDM(), gaussian()))
    came = at.input(lambda *given: hit, one.noise, one.condition, 1)
    torch.testing.assert_close(came, anchor(one.noise))

    flow = Flow(shift=3.0)
    settings = term.distill.model_copy(
        update={"student": term.distill.student.model_copy(update={"times": (1.0, 0.5)})}
    )
    term, teacher = replace(term, distill=settings), Linear()
    times, x_t = term.way(flow), one.noise
    for here, ahead in pairwise(times.tolist()):
        x_t = x_t + (ahead - here) * (x_t - teacher(x_t, here, None)) / here
    velocity = (one.noise - x_t) / (1 - times[-1])
    of_flow = replace(one, draws={"diversity": Way(times)})
    found = term.target(Seen(of_flow, flow, teacher))
    torch.testing.assert_close(found, one.noise - velocity)


@pytest.mark.parametrize("shift", [1.5, 6.0])
def test_the_way_is_that_of_the_samples_own_size(shift):
    """Flow teachers shift their times by the size; the loss knows the default size's alone."""
    method = replace(method_of(), schedule=Flow(shift=3.0))
    drawn_at = method.at((2, 4, 4), Flow(shift=shift)).draw(1, torch.Generator().manual_seed(0))
    found = drawn_at.draws["diversity"].times
    assert torch.equal(found, Flow(shift=shift).times(12)[:5])


class Linear(nn.Module):
    def forward(self, x_t: Tensor, t: object, condition: object) -> Tensor:
        return 0.3 * x_t + 0.1


class Seen:
    def __init__(self, microbatch: Microbatch, schedule: Flow, teacher: nn.Module) -> None:
        self.microbatch, self.schedule, self.teacher = microbatch, schedule, teacher


def test_later_steps_are_matchings_and_without_the_term_so_is_the_first():
    method, plain = method_of(), new_method(SHAPE, 1)
    for index in (1, 2):
        assert method.recipe.at(method.plan(0), index).on_samples == {"matching": 1.0}
    for recipe in (plain.recipe, method_of(weight=0.0).recipe):
        assert recipe.at(recipe.plan(0), 0).on_samples == {"matching": 1.0}


def test_the_student_gets_no_other_gradient_at_its_first_step():
    method = method_of()
    student = nn.Conv2d(2, 2, 1).double()

    def x0(x_t: Tensor, t: Tensor, condition: object) -> Tensor:
        return student(x_t / 80)

    one, plan = drawn(method), replace(method.plan(0), on_pairs={})
    method.student_loss(plan, x0, gaussian(), Never(), one).total.backward()
    found = [weight.grad for weight in student.parameters()]
    loss = WEIGHT * (student(one.noise) - target(one.noise)).square().mean()
    expected = torch.autograd.grad(loss, list(student.parameters()))
    torch.testing.assert_close(found, list(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"student": {}}, "diversity: it teaches the first of several steps, and the student has"),
        ({"terms": {"diversity": {"anchor": 31}}}, "anchor: 31 is more than its steps \\(30\\)"),
        ({"matching": {"weight": 0.0}}, "leaves the student's later steps to matching"),
    ],
)
def test_what_it_cannot_teach_is_refused(distill, message):
    settings = {"student": {"times": [80.0, 5.0]}, "terms": {"diversity": {}}}
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"distill": settings | distill})


def test_an_anchor_before_the_students_first_time_is_refused(tiny_run):
    config = tiny_run(student={"times": [40.0, 5.0]}, terms={"diversity": {"anchor": 2}})
    message = "anchor: after 2 of 30 steps the teacher is at time .* not past .*40"
    with pytest.raises(UserError, match=message):
        build_method(config.distill, load_teacher(config.teacher), torch.device("cpu"))
