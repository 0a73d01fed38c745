"""From noise to images: many steps of the teacher, one call of the student."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.solver import SOLVERS
from pipeline.errors import UserError
from pipeline.models.denoiser import Denoiser

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A network as the losses and solvers call it: (x_t, t, labels) -> x0."""


def guide(teacher: Denoiser, scale: float) -> Denoise:
    """The teacher under classifier-free guidance; at scale 1 it is only called with labels.

    Raises:
        UserError: In a call without labels at another scale.
    """
    if scale == 1.0:
        return teacher

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise UserError(
                f"pairs.guidance: {scale} needs labels, and the teacher has none; use 1"
            )
        return guided(teacher(x_t, t, None), teacher(x_t, t, labels), scale)

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
        UserError: If guidance is asked for without labels.
    """
    denoise, schedule = guide(teacher, guidance), teacher.schedule
    return SOLVERS[solver](
        lambda x_t, t: denoise(x_t, t, labels), noise, schedule, schedule.times(steps)
    )


def one_step(
    student: nn.Module, schedule: Schedule, noise: Tensor, labels: Tensor | None
) -> Tensor:
    """The student's images of unit-variance noise: its x0 at the noisiest time, in one call.

    Args:
        student: A denoiser on this schedule, wrapped or bare; gradients flow if enabled.
        schedule: Of the student.
        noise: (B, C, H, W), on the student's device.
        labels: Class labels, (B,) int64, or None.

    Returns:
        Images, same shape as the noise, in about [-1, 1].

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Section 3.1.
    """
    start = noise.new_full((len(noise),), schedule.start)
    images: Tensor = student(schedule.spread(start[0]) * noise, start, labels)
    return images


@torch.no_grad()
def sample_student(student: Denoiser, noise: Tensor, labels: Tensor | None) -> Tensor:
    """`one_step` without gradients, for a student in eval mode."""
    return one_step(student, student.schedule, noise, labels)
