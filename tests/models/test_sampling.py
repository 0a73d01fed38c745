"""Sampling: the student's one call, the teacher's ODE, guidance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.solver import SOLVERS
from pipeline.models.families.gaussian import GaussianMixture, gaussian_teacher
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.sampling import guide, network_calls, sample_student, sample_teacher
from pipeline.utils.errors import UserError
from tests.fixtures.denoise import denoise

LABELS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def teacher() -> GaussianMixture:
    return gaussian_teacher((1, 4, 4), 3)


def test_one_step_is_x0_at_the_noisiest_time(tiny: Callable[..., UNet2D]) -> None:
    student, noise = tiny(), torch.randn(4, 1, 8, 8)
    expected = denoise(student, 80.0 * noise, torch.full((4,), 80.0), LABELS)
    assert expected.requires_grad
    images = student.sampler.images(student, noise, student.conditioner(LABELS, 4))
    assert torch.equal(images, expected) and images.requires_grad
    alone = sample_student(student, noise, LABELS)
    assert torch.equal(alone, expected) and not alone.requires_grad


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("labels", [None, LABELS])
def test_without_guidance_the_teacher_is_solved_as_it_is(
    teacher: GaussianMixture, solver: str, labels: Tensor | None
) -> None:
    noise, times = torch.randn(4, 1, 4, 4), EDM().times(6)
    expected = SOLVERS[solver](lambda x, t: denoise(teacher, x, t, labels), noise, EDM(), times)
    assert torch.equal(sample_teacher(teacher, noise, labels, solver, 6, 1.0), expected)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_guidance_is_combined_in_every_evaluation(teacher: GaussianMixture, scale: float) -> None:
    noise = torch.randn(4, 1, 4, 4, dtype=torch.float64)

    def by_hand(x_t: Tensor, t: Tensor) -> Tensor:
        return (1 - scale) * denoise(teacher, x_t, t) + scale * denoise(teacher, x_t, t, LABELS)

    expected = SOLVERS["heun"](by_hand, noise, EDM(), EDM().times(8))
    images = sample_teacher(teacher, noise, LABELS, "heun", 8, scale)
    torch.testing.assert_close(images, expected, atol=1e-10, rtol=0)
    plain = sample_teacher(teacher, noise, LABELS, "heun", 8, 1.0)
    assert (images - plain).abs().max() > 0.01


def test_guidance_is_one_call_of_twice_the_rows(teacher: GaussianMixture) -> None:
    rows = list[int]()
    teacher.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    x_t, condition = torch.randn(4, 1, 4, 4), teacher.conditioner(LABELS, 4)
    guided = guide(teacher, 3.0)
    guided(x_t, torch.full((4,), 5.0), condition)
    assert rows == [8]
    both = guided.both(x_t, torch.full((4,), 5.0), condition)
    assert rows == [8, 8]
    for x0, way in zip(both, (guided, guided.conditional), strict=True):
        assert torch.equal(x0, way(x_t, torch.full((4,), 5.0), condition))
    assert rows == [8, 8, 8, 4]


def test_at_scale_one_the_teacher_is_called_once_and_with_labels(
    tiny: Callable[..., UNet2D],
) -> None:
    """So that a network without an unconditional branch works."""
    student, noise = tiny(), torch.randn(4, 1, 8, 8)
    assert sample_teacher(student, noise, LABELS, "euler", 2, 1.0).isfinite().all()
    with pytest.raises(UserError, match=r"no unconditional branch.*pairs\.guidance"):
        sample_teacher(student, noise, LABELS, "euler", 2, 2.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("until", "guided"), [(0.05, 0), (0.5, 4), (0.6, 4), (0.9, 7), (1.0, 8)])
def test_as_many_first_steps_are_guided_as_fit_into_their_share(
    teacher: GaussianMixture, solver: str, until: float, guided: int
) -> None:
    rows, times = list[tuple[float, int]](), EDM().times(8)
    teacher.register_forward_hook(
        lambda _, inputs, __: rows.append((float(inputs[1].flatten()[0]), len(inputs[0])))
    )
    how = Guidance(3.0, until)
    sample_teacher(teacher, torch.randn(4, 1, 4, 4), LABELS, solver, 8, how)
    last = times[guided - 1] - 1e-4 if guided else torch.inf
    assert [count for _, count in rows] == [8 if t > last else 4 for t, _ in rows]
    assert sum(count for _, count in rows) == 4 * network_calls(teacher, solver, 8, how)


@pytest.mark.parametrize(
    "schedule", [EDM(), Flow(3.0), VP(torch.linspace(0.99, 0.01, 1000))], ids=["edm", "flow", "vp"]
)
def test_in_training_each_row_is_guided_down_to_its_share_of_the_way(
    teacher: GaussianMixture, schedule: Schedule
) -> None:
    teacher.schedule = schedule
    t = schedule.time_from_fraction(torch.tensor([0.95, 0.41, 0.39, 0.1]))
    x_t, condition = torch.randn(4, 1, 4, 4), teacher.conditioner(LABELS, 4)
    always, never = guide(teacher, 3.0), guide(teacher, 1.0)
    expected = torch.cat([always(x_t, t, condition)[:2], never(x_t, t, condition)[2:]])
    made = guide(teacher, Guidance(3.0, 0.6))(x_t, t, condition)
    torch.testing.assert_close(made, expected)


def test_a_second_network_has_a_scale_of_its_own(teacher: GaussianMixture) -> None:
    x_t, condition = torch.randn(4, 1, 4, 4), teacher.conditioner(LABELS, 4)
    t, wanted = torch.tensor([40.0, 5.0, 4.9, 1.0]), Guidance(4.0, 0.5, second=2.0)
    with pytest.raises(UserError, match=r"pairs\.guidance_2.* null"):
        guide(teacher, wanted)(x_t, t, condition)
    teacher.second_guided = lambda t: t < 5.0
    assert teacher.guidance_end(0.5, None) < 4.9
    made = guide(teacher, wanted)(x_t, t, condition)
    for row, scale in enumerate((4.0, 4.0, 2.0, 1.0)):
        expected = guide(teacher, scale)(x_t, t, condition)[row]
        torch.testing.assert_close(made[row], expected)


def test_norms_are_refused_where_no_pipeline_has_a_choice(teacher: GaussianMixture) -> None:
    with pytest.raises(UserError, match=r"pairs\.guidance_norm: True.* null"):
        guide(teacher, Guidance(3.0, norm=True))


def test_guidance_without_labels_is_refused(teacher: GaussianMixture) -> None:
    with pytest.raises(UserError, match=r"pairs\.guidance: 3\.0 needs labels.*use 1"):
        sample_teacher(teacher, torch.randn(1, 1, 4, 4), None, "euler", 2, 3.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("spacing", "offset", "steps", "reason"),
    [
        ("multistep-leading", 0, 10, "all are at time 0"),
        ("leading", 1, 10, "do not fit a table of 10"),
        ("trailing", 0, 11, "do not fit a table of 10"),
    ],
)
def test_more_steps_than_the_teacher_has_are_refused(
    solver: str, spacing: str, offset: int, steps: int, reason: str
) -> None:
    teacher, noise = gaussian_teacher((1, 4, 4), 3), torch.randn(1, 1, 4, 4)
    teacher.schedule = VP(torch.linspace(0.99, 0.01, 10), spacing, offset)
    with pytest.raises(UserError, match=rf"pairs\.steps: {steps} are too many .*{reason}.* fewer"):
        sample_teacher(teacher, noise, None, solver, steps, 1.0)
    assert sample_teacher(teacher, noise, None, solver, 9, 1.0).isfinite().all()
