"""Figures of a student: beside its teacher's images by ODE and SDE, and beside real ones."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.data.images import load_images
from pipeline.diffusion import seeds
from pipeline.evaluation.classifier import read, train_classifier
from pipeline.evaluation.metrics.frechet import frechet_distance
from pipeline.evaluation.metrics.neighbours import support
from pipeline.models.denoiser import Denoiser
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student

COUNT, BATCH = 10_000, 500
SDE_STEPS = 128
"""So many that variances come to 1% of the exact ones; a sampler of first order leaves 9%."""


@torch.no_grad()
def sample_sde(
    teacher: Denoiser, noise: Tensor, labels: Tensor | None, steps: int = SDE_STEPS
) -> Tensor:
    """Sample with fresh noise in every step: SDE-DPM-Solver++(2M) for x_t = x0 + t eps.

    A step from t to s draws from q(x_s | x_t, x0), of mean x0 + (s/t)^2 (x_t - x0) and variance
    s^2 (1 - (s/t)^2), at the x0 that `dpmpp_2m` extrapolates.

    Args:
        teacher: With an EDM schedule.
        noise: Unit-variance noise, (B, C, H, W); fresh noise follows from it.
        labels: Classes, (B,), or None.
        steps: As many evaluations of the network.

    Returns:
        Images, same shape and dtype as the noise.

    Source: Lu et al., 2022, arXiv 2211.01095, SDE-DPM-Solver++(2M).
    """
    times = teacher.schedule.times(steps).to(noise)
    condition = teacher.conditioner(labels, len(noise), noise.device)
    x_t, before, last = times[0] * noise, None, times[0]
    for number, (t, s) in enumerate(pairwise(times)):
        x0 = ahead = teacher(x_t, t, condition)
        if before is not None and s > 0:
            ahead = x0 + (t / s).log() / (last / t).log() / 2 * (x0 - before)
        kept = (s / t) ** 2
        x_t = ahead + kept * (x_t - ahead) + s * (1 - kept).sqrt() * seeds.renewed(noise, number)
        before, last = x0, t
    return x_t


class Scale:
    """The figures of one seed's students, against the same teacher images.

    Args:
        config: With the teacher, its solver and the real images.
    """

    def __init__(self, config: Config):
        self.teacher, self.seed = load_teacher(config.teacher), config.seed
        real = load_images(config.data.name, config.data.size, config.data.folder)
        self.classifier = train_classifier(real.images, real.labels, real.classes)
        self.real = read(self.classifier, real.images).features
        self.labels = torch.arange(COUNT) % real.classes
        self.solver = (config.pairs.solver, config.pairs.steps, config.pairs.guided)
        self.images = self.make(self._ode)
        self.other = self.make(self._ode, seeds.FLOOR)
        self.stochastic = read(self.classifier, self.make(self._sde)).features

    def figures(self, config: Config) -> dict[str, float]:
        """Of a student: against the teacher and its floor, and against the real images."""
        return self._figures(self.student_images(config))

    def teacher_figures(self) -> dict[str, float]:
        """The teacher's own, from other noise than that of the comparison."""
        return self._figures(self.other)

    def stochastic_figures(self) -> dict[str, float]:
        """The teacher's with fresh noise in every step, from other noise likewise."""
        return self._figures(self.make(self._sde, seeds.FLOOR))

    def student_images(self, config: Config) -> Tensor:
        """What a run's student makes of the noise, (COUNT, C, H, W)."""
        student = load_student(config.evaluate.student, config.teacher)
        return self.make(lambda noise, labels: sample_student(student, noise, labels))

    def _ode(self, noise: Tensor, labels: Tensor) -> Tensor:
        return sample_teacher(self.teacher, noise, labels, *self.solver)

    def _sde(self, noise: Tensor, labels: Tensor) -> Tensor:
        return sample_sde(self.teacher, noise, labels)

    def _figures(self, made: Tensor) -> dict[str, float]:
        ours, teachers, others = (
            read(self.classifier, images) for images in (made, self.images, self.other)
        )
        found = support(self.real, ours.features)
        return {
            "fd_teacher": frechet_distance(teachers.features, ours.features),
            "fd_floor": frechet_distance(teachers.features, others.features),
            "fd_stochastic": frechet_distance(self.stochastic, ours.features),
            "accuracy": float((ours.logits.argmax(1) == self.labels).double().mean()),
            "pixel_fd": frechet_distance(self.images.flatten(1), made.flatten(1)),
            "fd_real": frechet_distance(self.real, ours.features),
            "precision": float(found.precision.mean()),
            "recall": float(found.recall.mean()),
        }

    def make(
        self, by: Callable[[Tensor, Tensor], Tensor], stream: int = seeds.EVALUATION
    ) -> Tensor:
        """Images (COUNT, C, H, W) of a seeded noise by (noise, labels) -> images."""
        made = []
        for ids in torch.arange(len(self.labels)).split(BATCH):
            noise = seeds.noise(self.seed, ids, self.teacher.shape, stream)
            made.append(by(noise, self.labels[ids]))
        return torch.cat(made)
