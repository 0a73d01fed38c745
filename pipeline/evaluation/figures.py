"""From what was read of all images to the figures of an evaluation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion import seeds
from pipeline.evaluation.comparison import Source
from pipeline.evaluation.estimates import Comparison, compare
from pipeline.evaluation.metrics import frechet_distance, gaussian_distance
from pipeline.evaluation.statistics import GROUPS, Sketch

Sketches = Mapping[Source, Sketch]

HALF, OTHER_HALF = tuple(range(0, GROUPS, 2)), tuple(range(1, GROUPS, 2))


@dataclass(frozen=True)
class AgainstTeacher:
    """Student against teacher, n_teacher images of each.

    Fréchet distances (fd) are in squared units of the features. Those at different n are not to
    be compared.

    Attributes:
        fd_teacher, pixel_fd: From the same noise and labels, on features and on pixels.
        fd_floor, pixel_fd_floor: Teacher against teacher, same labels and other noise.
        accuracy, teacher_accuracy: Part of the images classified as their label.
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
    n_real_floor: int | None = None


def against_teacher(sets: Sketches, blocks: list[Comparison]) -> AgainstTeacher:
    """The main figures of student and teacher."""
    fid, student, teacher = blocks[0].figures["fid"], sets["student"], sets["teacher"]
    return AgainstTeacher(
        fd_teacher=fid["student"].value,
        fd_floor=fid["floor"].value,
        pixel_fd=_pixel_fd(teacher, student),
        pixel_fd_floor=_pixel_fd(teacher, sets["floor"]),
        accuracy=_accuracy(student),
        teacher_accuracy=_accuracy(teacher),
        n_teacher=teacher.count,
    )


def against_real(sets: Sketches, blocks: list[Comparison]) -> AgainstReal:
    """The main figures of both against all real images."""
    fid, others, real = blocks[0].figures["fid"], blocks[-1].figures, sets["real"]
    kept = real.kept()
    labels = torch.zeros(real.count) if real.labels is None else real.labels
    return AgainstReal(
        fd_real=fid["student"].value,
        teacher_fd_real=fid["teacher"].value,
        real_floor=half_against_half(kept, labels[: len(kept)]),
        precision=others["precision"]["student"].value,
        recall=others["recall"]["student"].value,
        teacher_precision=others["precision"]["teacher"].value,
        teacher_recall=others["recall"]["teacher"].value,
        classifier_accuracy=_accuracy(sets["held_out"]) if "held_out" in sets else None,
        n_real=real.count,
        n_real_floor=len(kept) // 2,
    )


def half_against_half(features: Tensor, labels: Tensor, splits: int = 10) -> float:
    """Mean Fréchet distance of random halves, each class split evenly.

    Args:
        features: (N, D).
        labels: Classes, (N,) int64: as in the other distances, both sides have the same.
        splits: Number of random splits.
    """
    rng, total = seeds.generator("halves"), 0.0
    for _ in range(splits):
        order = (labels + torch.rand(len(labels), generator=rng)).argsort()
        order = order[: len(order) // 2 * 2]
        total += frechet_distance(features[order[0::2]], features[order[1::2]])
    return total / splits


class Compared(NamedTuple):
    """Every comparison of an evaluation, by its reference.

    Attributes:
        teacher: Student and floor against the teacher's images.
        real: Student and teacher against all real images; empty where there are none.
        half: Both, and the other half as the floor, against half of the real images.
    """

    teacher: list[Comparison]
    real: list[Comparison]
    half: list[Comparison]


def compare_all(sets: Sketches) -> Compared:
    """Compare all sets with their references; neighbours are looked for among real images."""
    has_real = "real" in sets
    versus = compare(
        sets["teacher"],
        {"student": sets["student"], "floor": sets["floor"]},
        paired="student",
        by_neighbours=not has_real,
    )
    if not has_real:
        return Compared(versus, [], [])
    both = {"student": sets["student_real"], "teacher": sets["teacher_real"]}
    return Compared(
        versus,
        compare(sets["real"], both),
        compare(sets["real"], both, HALF, floor=OTHER_HALF),
    )


def flat(*parts: AgainstTeacher | AgainstReal | Any) -> dict[str, Any]:
    """The fields of all parts in one table."""
    return {name: value for part in parts for name, value in asdict(part).items()}


def _pixel_fd(a: Sketch, b: Sketch) -> float | None:
    if a.pixel_moments is None or b.pixel_moments is None:
        return None
    return gaussian_distance(a.pixel_moments.gaussian(), b.pixel_moments.gaussian())


def _accuracy(of: Sketch) -> float | None:
    if of.labels is None or not len(of.predicted):
        return None
    return float((of.predicted == of.labels).double().mean())
