"""Whether a student's images are training images that it remembers."""

from typing import Any, NamedTuple

from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.metrics.neighbours import Nearest, nearest
from pipeline.evaluation.statistics import Statistics

SHOWN = 10
"""Pairs of neighbours that are drawn: the nearest of all, and as many about the median."""


class Memorization(NamedTuple):
    """Whether images are remembered training images.

    Attributes:
        record: As `evaluation.json` has it; None without held-out images to measure it by.
        nearest: Of each image of the student, its nearest real ones in features, and in pixels
            where there is a record.
    """

    record: dict[str, Any] | None
    nearest: dict[str, Nearest]


def memorization(sets: Statistics) -> Memorization:
    """How near the student's images are to training images, beside images never trained on.

    In each space: `ratio`, the median distance of a set to its nearest training images, divided by
    that of held-out images, and `closer`, the share of a set that is nearer than 95% of those are.
    """
    real = sets["real"]
    if "held_out" not in sets:
        return Memorization(
            None, {"features": nearest(sets["student_real"].features, real.features)}
        )
    held_out = sets["held_out"]
    record: dict[str, Any] = {"n_reference": real.count, "n_held_out": held_out.count}
    found: dict[str, Nearest] = {}
    for space in ("features", "pixels"):
        centres, apart = getattr(real, space), getattr(held_out, space)
        usual = nearest(apart, centres).distance
        record[space] = {"held_out_distance": float(usual.median())}
        for name, images in (("student", "student_real"), ("teacher", "teacher_real")):
            ours = nearest(getattr(sets[images], space), centres)  # type: ignore[index]
            found.setdefault(space, ours)
            record[space][name] = {
                "n": len(ours.distance),
                "ratio": bootstrap.ratio_of_medians(ours.distance, usual)._asdict(),
                "closer": bootstrap.mean(ours.distance < usual.quantile(0.05))._asdict(),
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
    return Memorization(record, found)
