"""From noise to images: many steps of the teacher, one or a few of the student."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.noise import Schedule, expand
from pipeline.diffusion.solver import SOLVERS
from pipeline.models.denoiser import Denoiser
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class Guided:
    """A teacher under classifier-free guidance, in one call of twice the rows.

    Where the scale is 1 for all rows it is called with the condition alone.

    Args:
        teacher: Any denoiser.
        guidance: How it is guided.
        times: Of the solver that calls it, (steps + 1,); None in training.
    """

    teacher: Denoiser
    guidance: Guidance
    times: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x0 under guidance, (B, C, H, W)."""
        return self.both(x_t, t, condition)[0]

    def conditional(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x0 without guidance, (B, C, H, W)."""
        x0: Tensor = self.teacher(x_t, t, condition)
        return x0

    def both(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """x0 under guidance and without, (B, C, H, W) each.

        Raises:
            UserError: At another scale than 1, if the teacher knows no unconditional branch.
        """
        teacher, wanted, each = self.teacher, self.guidance, t.expand(len(x_t))
        scale = teacher.guidance_scale(wanted, each, self.times)
        if torch.as_tensor(scale == 1).all():
            x0 = self.conditional(x_t, t, condition)
            return x0, x0
        if isinstance(scale, Tensor):
            scale = expand(scale, x_t)
        null = teacher.conditioner.null(len(x_t), x_t.device)
        both = Condition.cat([condition.without_prompts(null), condition])
        uncond, cond = teacher(torch.cat([x_t, x_t]), each.repeat(2), both).chunk(2)
        return teacher.guided(uncond, cond, scale, x_t, each, wanted.norm), cond


def guide(teacher: Denoiser, guidance: Guidance | float, times: Tensor | None = None) -> Guided:
    """The teacher under guidance; a number is a scale for all times, other arguments as `Guided`.

    Raises:
        UserError: If its pipeline leaves no choice of the norm.
    """
    wanted = Guidance.of(guidance)
    if wanted.norm is not None and teacher.guidance_norm is None:
        raise UserError(
            f"pairs.guidance_norm: {wanted.norm}, but the teacher's pipeline leaves no choice; "
            "give null"
        )
    return Guided(teacher, wanted, times)


@torch.no_grad()
def sample_teacher(
    teacher: Denoiser,
    noise: Tensor,
    labels: Tensor | None,
    solver: str,
    steps: int,
    guidance: Guidance | float,
) -> Tensor:
    """Solve the teacher's ODE from noise to image.

    Args:
        teacher: Any denoiser, in eval mode.
        noise: Unit-variance noise, (B, C, H, W), on the teacher's device.
        labels: Class labels, (B,) int64, or None.
        solver: A name in `SOLVERS`.
        steps: Its number of steps.
        guidance: As in `guide`.

    Returns:
        Images, same shape and dtype as the noise, in about [-1, 1].

    Raises:
        UserError: If guidance is asked for without labels, or of a teacher without an
            unconditional branch; or if the teacher's schedule has fewer steps.
    """
    scale, schedule = Guidance.of(guidance).scale, teacher.schedule
    if labels is None and scale != 1.0:
        raise UserError(f"pairs.guidance: {scale} needs labels, and the teacher has none; use 1")
    times = _times(schedule, steps)
    denoise = guide(teacher, guidance, times)
    condition = teacher.conditioner(labels, len(noise), noise.device)
    return SOLVERS[solver](lambda x_t, t: denoise(x_t, t, condition), noise, schedule, times)


def network_calls(teacher: Denoiser, solver: str, steps: int, guidance: Guidance | float) -> int:
    """Network evaluations of one image; where there is guidance, two at a time."""
    times, wanted, calls = _times(teacher.schedule, steps), Guidance.of(guidance), 0

    def count(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1 if teacher.guidance_scale(wanted, t, times) == 1 else 2
        return x_t

    SOLVERS[solver](count, torch.zeros(1), teacher.schedule, times)
    return calls


def _times(schedule: Schedule, steps: int) -> Tensor:
    """Of a solver; not all at one time, as so many steps of DPM-Solver's "leading" spacing are."""
    try:
        times = schedule.times(steps)
        if steps == 1 or times[0] > times[-2]:
            return times
        problem = f"all are at time {times[0]:g}"
    except ValueError as error:
        problem = str(error)
    raise UserError(f"pairs.steps: {steps} are too many for this teacher ({problem}); set fewer")


@torch.no_grad()
def sample_student(student: Denoiser, noise: Tensor, labels: Tensor | None) -> Tensor:
    """The student's images, as `FewStepSampler.images`, for a student in eval mode."""
    condition = student.conditioner(labels, len(noise), noise.device)
    return student.sampler.images(student, noise, condition)
