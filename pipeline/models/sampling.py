"""From noise to images: many steps of the teacher, one or a few of the student."""

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.sampler import Denoise
from pipeline.diffusion.solver import SOLVERS
from pipeline.models.denoiser import Denoiser
from pipeline.utils.errors import UserError


def guide(teacher: Denoiser, scale: float) -> Denoise:
    """The teacher under classifier-free guidance, in one call of twice the rows.

    At scale 1 it is called with the condition alone.

    Raises:
        UserError: In a call at another scale, if the teacher knows no unconditional branch.
    """
    if scale == 1.0:
        return teacher

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        both = Condition.cat([teacher.conditioner.null(len(x_t), x_t.device), condition])
        times = t.expand(len(x_t)).repeat(2)
        uncond, cond = teacher(torch.cat([x_t, x_t]), times, both).chunk(2)
        return teacher.guided(uncond, cond, scale, x_t, t.expand(len(x_t)))

    return denoise


@torch.no_grad()
def sample_teacher(
    teacher: Denoiser,
    noise: Tensor,
    labels: Tensor | None,
    solver: str,
    steps: int,
    guidance: float,
) -> Tensor:
    """Solve the teacher's ODE from noise to image.

    Args:
        teacher: Any denoiser, in eval mode.
        noise: Unit-variance noise, (B, C, H, W), on the teacher's device.
        labels: Class labels, (B,) int64, or None.
        solver: A name in `SOLVERS`.
        steps: Its number of steps.
        guidance: Scale of classifier-free guidance.

    Returns:
        Images, same shape and dtype as the noise, in about [-1, 1].

    Raises:
        UserError: If guidance is asked for without labels, or of a teacher without an
            unconditional branch; or if the teacher's schedule has fewer steps.
    """
    if labels is None and guidance != 1.0:
        raise UserError(f"pairs.guidance: {guidance} needs labels, and the teacher has none; use 1")
    denoise, schedule = guide(teacher, guidance), teacher.schedule
    condition = teacher.conditioner(labels, len(noise), noise.device)
    return SOLVERS[solver](
        lambda x_t, t: denoise(x_t, t, condition), noise, schedule, _times(schedule, steps)
    )


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
