"""The main figures of an evaluation, each by its name in a flat table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion import seeds
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.metrics.frechet import frechet_distance, gaussian_distance
from pipeline.evaluation.statistics import SetStatistics, Statistics


@dataclass(frozen=True)
class AgainstTeacher:
    """Student against teacher, n_teacher images of each.

    Fréchet distances (fd) are in squared units of the features. Do not compare those of
    different n.

    Attributes:
        fd_teacher, pixel_fd: From the same noise and labels, on features and on pixels.
        fd_floor, pixel_fd_floor: Teacher against teacher, same labels and other noise.
        accuracy, teacher_accuracy: Share of the images classified as their label.
        n_teacher: Images of each.
    """

    fd_teacher: float
    fd_floor: float
    pixel_fd: float | None
    pixel_fd_floor: float | None
    accuracy: float | None
    teacher_accuracy: float | None
    n_teacher: int


@dataclass(frozen=True)
class AgainstReal:
    """Student and teacher against real images; all None where there are none.

    Attributes:
        fd_real, teacher_fd_real: Fréchet distances, with the real images' labels where the teacher
            knows them.
        real_floor: Random half of the real images of each class against the other half, mean
            of 10 splits.
        precision, recall, teacher_precision, teacher_recall: Against the real images, k = 3.
        classifier_accuracy: On real images that it was not trained on; None without one.
        n_real: Real images, and images of student and of teacher.
        n_real_compared: Of these in precision and recall.
        n_real_floor: Images in a half.
    """

    fd_real: float | None = None
    teacher_fd_real: float | None = None
    real_floor: float | None = None
    precision: float | None = None
    recall: float | None = None
    teacher_precision: float | None = None
    teacher_recall: float | None = None
    classifier_accuracy: float | None = None
    n_real: int | None = None
    n_real_compared: int | None = None
    n_real_floor: int | None = None


def against_teacher(sets: Statistics, blocks: list[Comparison]) -> AgainstTeacher:
    """The main figures of student and teacher."""
    fid, student, teacher = blocks[0].figures["fid"].sets, sets["student"], sets["teacher"]
    return AgainstTeacher(
        fd_teacher=fid["student"].value,
        fd_floor=fid["floor"].value,
        pixel_fd=_pixel_fd(teacher, student),
        pixel_fd_floor=_pixel_fd(teacher, sets["floor"]),
        accuracy=_accuracy(student),
        teacher_accuracy=_accuracy(teacher),
        n_teacher=teacher.count,
    )


def against_real(sets: Statistics, blocks: list[Comparison]) -> AgainstReal:
    """The main figures of both against all real images."""
    fid, others, real = blocks[0].figures["fid"].sets, blocks[-1].figures, sets["real"]
    precision, recall = others["precision"].sets, others["recall"].sets
    kept = real.feature_set().kept
    labels = torch.zeros(real.count) if real.labels is None else real.labels
    return AgainstReal(
        fd_real=fid["student"].value,
        teacher_fd_real=fid["teacher"].value,
        real_floor=half_against_half(kept, labels[: len(kept)]),
        precision=precision["student"].value,
        recall=recall["student"].value,
        teacher_precision=precision["teacher"].value,
        teacher_recall=recall["teacher"].value,
        classifier_accuracy=_accuracy(sets["held_out"]) if "held_out" in sets else None,
        n_real=real.count,
        n_real_compared=blocks[-1].n,
        n_real_floor=len(kept) // 2,
    )


def half_against_half(features: Tensor, labels: Tensor, splits: int = 10) -> float:
    """Mean Fréchet distance of random halves, each class split evenly.

    Args:
        features: (N, D).
        labels: Classes, (N,) int64; both halves have nearly the same of each.
        splits: Number of random splits.
    """
    rng, total = seeds.generator("halves"), 0.0
    for _ in range(splits):
        order = (labels + torch.rand(len(labels), generator=rng)).argsort()
        order = order[: len(order) // 2 * 2]
        total += frechet_distance(features[order[0::2]], features[order[1::2]])
    return total / splits


def _pixel_fd(a: SetStatistics, b: SetStatistics) -> float | None:
    if a.pixel_moments is None or b.pixel_moments is None:
        return None
    return gaussian_distance(a.pixel_moments.gaussian(), b.pixel_moments.gaussian())


def _accuracy(of: SetStatistics) -> float | None:
    if of.labels is None or not len(of.predicted):
        return None
    return float((of.predicted == of.labels).double().mean())
