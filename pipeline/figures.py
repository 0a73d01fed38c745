"""From what was read of all images to the figures of an evaluation."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.classifier import FEATURES
from pipeline.comparison import Maker, Source
from pipeline.diffusion import seeds
from pipeline.estimates import Comparison, Estimate, around, compare, share
from pipeline.metrics import Nearest, frechet_distance, gaussian_distance, nearest
from pipeline.models.features import weights_checksum
from pipeline.sketch import GROUPS, Sketch

Sketches = Mapping[Source, Sketch]

HALF, OTHER_HALF = tuple(range(0, GROUPS, 2)), tuple(range(1, GROUPS, 2))
SHOWN = 10
"""Pairs of neighbours that are drawn: the nearest of all, and as many about the median."""
_LISTED = 100
_LIBRARIES = {
    "fid": ("ray-dmd", "torch"),
    "kid": ("torchmetrics", "torch"),
    **dict.fromkeys(("precision", "recall", "density", "coverage"), ("ray-dmd", "torch")),
}


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
    """Student and teacher against the real training images; all None where there are none.

    Attributes:
        fd_real, teacher_fd_real: Fréchet distances, with the real images' labels.
        real_floor: Random half of the real images of each class against the other half, mean
            of 10 splits.
        precision, recall, teacher_precision, teacher_recall: Against the real images, k = 3.
        classifier_accuracy: On real images that it was not trained on.
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
    kept, labels = real.kept(), real.labels
    assert labels is not None
    return AgainstReal(
        fd_real=fid["student"].value,
        teacher_fd_real=fid["teacher"].value,
        real_floor=half_against_half(kept, labels[: len(kept)]),
        precision=others["precision"]["student"].value,
        recall=others["recall"]["student"].value,
        teacher_precision=others["precision"]["teacher"].value,
        teacher_recall=others["recall"]["teacher"].value,
        classifier_accuracy=_accuracy(sets["held_out"]),
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


def records(blocks: list[Comparison], reference: dict[str, str]) -> list[dict[str, Any]]:
    """Comparisons as `evaluation.json` has them: one reference and one n each."""
    return [
        {
            "reference": reference,
            "n": block.n,
            "figures": {
                figure: {
                    "library": _library(figure),
                    "student": None,
                    "teacher": None,
                    "floor": None,
                }
                | {name: each._asdict() for name, each in found.items()}
                for figure, found in block.figures.items()
            },
        }
        for block in blocks
    ]


def features_record(maker: Maker) -> dict[str, str | int | None]:
    """What the images are compared in."""
    if (net := maker.net) is not None:
        said = net.name, net.library, net.checksum, net.resize
    elif maker.judge is not None:
        checksum = weights_checksum(maker.judge.classifier)
        name = f"classifier of {maker.config.data.name}, {FEATURES} features"
        said = name, _versions("ray-dmd", "torch"), checksum, "none"
    else:
        kind = "pixels" if maker.teacher.latents is None else "latents"
        return {"name": kind, "library": None, "checksum": None, "resize": "none"}
    return dict(zip(("name", "library", "checksum", "resize"), said, strict=True))


class Memory(NamedTuple):
    """Whether images are real ones remembered.

    Attributes:
        record: As `evaluation.json` has it.
        nearest: Of each image of the student, its nearest real ones in features and in pixels.
    """

    record: dict[str, Any]
    nearest: dict[str, Nearest]


def remembered(sets: Sketches) -> Memory:
    """How near the student's images are to training images, beside images never trained on.

    In each space: `ratio`, the median distance of a set to its nearest training images, divided by
    that of held-out images, and `closer`, the part of a set that is nearer than 95% of those are.
    """
    real, held_out = sets["real"], sets["held_out"]
    record: dict[str, Any] = {"n_reference": real.count, "n_held_out": held_out.count}
    found: dict[str, Nearest] = {}
    for space in ("features", "pixels"):
        centres, apart = getattr(real, space), getattr(held_out, space)
        usual = nearest(apart, centres).distance
        record[space] = {"held_out_distance": float(usual.median())}
        for name, source in (("student", "student_real"), ("teacher", "teacher_real")):
            ours = nearest(getattr(sets[source], space), centres)  # type: ignore[index]
            found.setdefault(space, ours)
            record[space][name] = {
                "n": len(ours.distance),
                "ratio": _ratio(ours.distance, usual)._asdict(),
                "closer": share(ours.distance < usual.quantile(0.05))._asdict(),
            }
    close, first = found["features"], sets["student"].count
    order = close.distance.argsort()[:SHOWN].tolist()
    record["nearest"] = [
        {
            "id": first + row,
            "real": int(close.index[row]),
            "distance": float(close.distance[row]),
        }
        for row in order
    ]
    return Memory(record, found)


def failures(student: Sketch, teacher: Sketch) -> dict[str, Any] | None:
    """Images that the classifier takes for another class than their label, the surest first."""
    labels = student.labels
    if labels is None or not len(student.predicted):
        return None
    wrong, taught = student.predicted != labels, teacher.predicted != labels
    rows = wrong.nonzero().flatten()
    rows = rows[student.confidence[rows].argsort(descending=True, stable=True)]
    said = [(int(labels[row]), int(student.predicted[row])) for row in rows.tolist()]
    return {
        "n": student.count,
        "student": share(wrong)._asdict(),
        "teacher": share(taught)._asdict(),
        "both": int((wrong & taught).sum()),
        "confusions": [
            {"label": label, "predicted": predicted, "count": count}
            for (label, predicted), count in Counter(said).most_common(10)
        ],
        "surest": [
            {
                "id": row,
                "label": label,
                "predicted": predicted,
                "confidence": float(student.confidence[row]),
            }
            for row, (label, predicted) in zip(rows[:_LISTED].tolist(), said, strict=False)
        ],
    }


def clip_record(sets: Sketches, maker: Maker) -> dict[str, Any] | None:
    """Mean CLIP scores; the floor is the teacher's from other noise."""
    if maker.clip is None:
        return None
    clip = maker.clip
    return {
        "library": clip.library,
        "checksum": clip.checksum,
        "resize": f"bicubic with antialiasing to {clip.side}x{clip.side}",
        "n": sets["student"].count,
        **{name: share(sets[name].clip)._asdict() for name in ("student", "teacher", "floor")},  # type: ignore[index]
    }


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


def _ratio(ours: Tensor, usual: Tensor) -> Estimate:
    """Of medians, resampled on both sides."""
    rng = seeds.generator("bootstrap")
    sides = [
        each[torch.randint(len(each), (100, len(each)), generator=rng)].median(1).values
        for each in (ours, usual)
    ]
    return around(float(ours.median() / usual.median()), sides[0] / sides[1])


def _library(figure: str) -> str:
    return _versions(*_LIBRARIES[figure])


def _versions(*packages: str) -> str:
    def said(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:  # run from a copy of the checkout
            return package

    return ", ".join(map(said, packages))
