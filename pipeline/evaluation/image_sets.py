"""The sets of images of an evaluation, each image by its number."""

from math import prod
from typing import Literal

import torch
from torch import Tensor

from pipeline.config import PairsConfig
from pipeline.diffusion import seeds
from pipeline.evaluation.generate import check_finite, device, generators
from pipeline.evaluation.real import RealPart, RealSet
from pipeline.models.denoiser import Denoiser

PIXELS = 3 * 32 * 32
"""Values of the largest images that are compared pixel by pixel: beyond, a covariance of pixels
takes much memory and time and says little."""

SetName = Literal["teacher", "student", "floor", "teacher_real", "student_real"] | RealPart
"""Student and teacher from the same noise, the teacher from other noise ("floor"), both with the
labels of the real images; the real images, and those no network has learnt from."""


class ImageSets:
    """Makes or reads the images of each set; the same numbers give the same images.

    Args:
        student, teacher: The networks.
        pairs: How the teacher makes images.
        count: Images of each set that is not compared with real images.
        seed: Of the run.
        real: What the networks' images are compared with, or None.

    Attributes:
        device: Where the networks are.
        by_student, by_teacher: The networks as functions from noise to images.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        *,
        pairs: PairsConfig,
        count: int,
        seed: int,
        real: RealSet | None,
    ) -> None:
        self.student, self.teacher, self.real = student, teacher, real
        self.count, self.seed, self.device = count, seed, device()
        self.by_student, self.by_teacher = generators(student, teacher, pairs)

    @property
    def whole_pixels(self) -> bool:
        """As `are_small` of the teacher's images."""
        return are_small(self.teacher)

    @property
    def counts(self) -> dict[SetName, int]:
        """Each set -> its number of images, the slowest to make first."""
        made: dict[SetName, int] = {
            "teacher": self.count,
            "floor": self.count,
            "student": self.count,
        }
        if self.real is not None:
            found = self.real.counts
            made |= {"teacher_real": found["real"], "student_real": found["real"]}
            made.update(found.items())
        return made

    def labels(self, name: SetName) -> Tensor | None:
        """Of all images of a set, (N,) int64; None for those without."""
        part: RealPart = "held_out" if name == "held_out" else "real"
        own = None if self.real is None else self.real.labels(part)
        if name == part:
            return own
        classes = self.teacher.classes
        if classes is None:
            return None
        if own is not None and name.endswith("_real"):
            return own
        return torch.arange(self.counts[name]) % classes

    def noise(self, name: SetName, numbers: Tensor) -> Tensor:
        """Of these images of a network, (n, C, H, W)."""
        stream = seeds.FLOOR if name == "floor" else seeds.EVALUATION
        first = self.count if name.endswith("_real") else 0
        return seeds.noise(self.seed, first + numbers, self.teacher.shape, stream)

    def images(self, name: SetName, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W): pixels of real ones, else what the networks make.

        Raises:
            UserError: If one is not finite, or cannot be read.
        """
        if name == "real" or name == "held_out":
            assert self.real is not None
            return self.real.images(name, numbers)
        by = self.by_student if name.startswith("student") else self.by_teacher
        labels = self.labels(name)
        images = by(self.noise(name, numbers), None if labels is None else labels[numbers])
        check_finite(images, name, int(numbers[0]))
        return images

    def decoded(self, name: SetName, images: Tensor) -> Tensor:
        """Images of a set as pixels, (n, 1 or 3, H, W), where the networks are."""
        images = images.to(self.device)
        return images if name in ("real", "held_out") else self.teacher.decode(images)


def are_small(teacher: Denoiser) -> bool:
    """Whether its images have no more than `PIXELS` values, and so are compared value by value."""
    return prod(teacher.shape) <= PIXELS
