"""Student and teacher as functions from noise to images."""

import torch
from torch import Tensor

from pipeline.config import PairsConfig
from pipeline.evaluation.speed import Generate
from pipeline.models.denoiser import Denoiser
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.utils.errors import UserError
from pipeline.utils.progress import Progress


def generators(
    student: Denoiser, teacher: Denoiser, pairs: PairsConfig
) -> tuple[Generate, Generate]:
    """Student and teacher as functions, on the GPU where there is one.

    Args:
        student, teacher: The networks, which are moved there.
        pairs: The teacher's solver, its steps and its guidance.
    """
    place_on = device()
    student, teacher = student.to(place_on), teacher.to(place_on)

    def place(labels: Tensor | None) -> Tensor | None:
        return None if labels is None else labels.to(place_on)

    def by_student(noise: Tensor, labels: Tensor | None) -> Tensor:
        return sample_student(student, noise.to(place_on), place(labels)).cpu()

    def by_teacher(noise: Tensor, labels: Tensor | None) -> Tensor:
        start, labels = noise.to(place_on), place(labels)
        images = sample_teacher(teacher, start, labels, pairs.solver, pairs.steps, pairs.guided)
        return images.cpu()

    return by_student, by_teacher


def generate(
    by: Generate, noise: Tensor, labels: Tensor | None, batch_size: int, label: str
) -> Tensor:
    """Images of all the noise, (N, C, H, W), a batch at a time, with progress.

    Raises:
        UserError: If an image is not finite.
    """
    images = []
    with Progress(len(noise), label, "images") as bar:
        for first in range(0, len(noise), batch_size):
            rows = slice(first, first + batch_size)
            images.append(by(noise[rows], None if labels is None else labels[rows]))
            check_finite(images[-1], label, first)
            bar.update(len(images[-1]))
    return torch.cat(images)


def check_finite(images: Tensor, label: str, first: int) -> None:
    """Refuse images that are not finite.

    Args:
        images: A batch.
        label: Who made it, for the message.
        first: Number of its first image.

    Raises:
        UserError: If a value is infinite or NaN.
    """
    if not images.isfinite().all():
        raise UserError(
            f"{label}: images {first} and following are not finite; train it again, "
            "with a lower learning rate"
        )


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
