"""What `evaluation.json` says under `metrics`: figures with their origin, neighbours, failures."""

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.data.crop import PREPARATION
from pipeline.diffusion import seeds
from pipeline.evaluation.classifier import FEATURES
from pipeline.evaluation.comparison import Maker
from pipeline.evaluation.estimates import RESAMPLES, Comparison, Estimate, around, share
from pipeline.evaluation.figures import Sketches
from pipeline.evaluation.metrics import Nearest, nearest
from pipeline.evaluation.reference import Reference
from pipeline.evaluation.statistics import Sketch
from pipeline.models.perceptual.features import weights_checksum

SHOWN = 10
"""Pairs of neighbours that are drawn: the nearest of all, and as many about the median."""
_LISTED = 100
_LIBRARIES = {
    "fid": ("ray-dmd", "torch"),
    "kid": ("torchmetrics", "torch"),
    **dict.fromkeys(("precision", "recall", "density", "coverage"), ("ray-dmd", "torch")),
}


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


def real_reference(maker: Maker) -> dict[str, str] | None:
    """What tells the real images of a comparison from others; None without."""
    if (real := maker.real) is None:
        return None
    against = {} if real.conditions is None else {"against": real.conditions}
    return {"name": "real", "fingerprint": real.fingerprint, **against}


def reference_record(maker: Maker) -> dict[str, Any] | None:
    """Which images of `evaluate.reference` were compared."""
    if not isinstance(reference := maker.real, Reference):
        return None
    return {
        "images": reference.total,
        "damaged": reference.damaged,
        "n": len(reference.samples),
        "preparation": f"{PREPARATION} to {reference.pixels[2]}x{reference.pixels[1]}",
        "against": reference.conditions,
    }


def features_record(maker: Maker) -> dict[str, str | int | None]:
    """What the images are compared in."""
    if (net := maker.net) is not None:
        said = net.name, net.library, net.checksum, net.resize
    elif maker.classifier is not None:
        checksum = weights_checksum(maker.classifier)
        name = f"classifier of {maker.config.data.name}, {FEATURES} features"
        said = name, _versions("ray-dmd", "torch"), checksum, "none"
    else:
        kind = "pixels" if maker.teacher.latents is None else "latents"
        return {"name": kind, "library": None, "checksum": None, "resize": "none"}
    return dict(zip(("name", "library", "checksum", "resize"), said, strict=True))


class Memory(NamedTuple):
    """Whether images are real ones remembered.

    Attributes:
        record: As `evaluation.json` has it; None without held-out images to measure it by.
        nearest: Of each image of the student, its nearest real ones in features, and in pixels
            where there is a record.
    """

    record: dict[str, Any] | None
    nearest: dict[str, Nearest]


def remembered(sets: Sketches) -> Memory:
    """How near the student's images are to training images, beside images never trained on.

    In each space: `ratio`, the median distance of a set to its nearest training images, divided by
    that of held-out images, and `closer`, the part of a set that is nearer than 95% of those are.
    """
    real = sets["real"]
    if "held_out" not in sets:
        return Memory(None, {"features": nearest(sets["student_real"].features, real.features)})
    held_out = sets["held_out"]
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
            "real": int(close.which[row]),
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
        **{name: share(sets[name].clip)._asdict() for name in ("student", "teacher", "floor")},
    }


def _ratio(ours: Tensor, usual: Tensor) -> Estimate:
    """Of medians, resampled on both sides."""
    rng = seeds.generator("bootstrap")
    sides = [
        each[torch.randint(len(each), (RESAMPLES, len(each)), generator=rng)].median(1).values
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
