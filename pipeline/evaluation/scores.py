"""What published scores say of student and teacher, and how much images of one prompt differ."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.evaluation.image_reader import SCORED
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.statistics import SetStatistics, Statistics
from pipeline.models.scores.score import Score


class Scored(NamedTuple):
    """Values of single images, (n,), and the number of the prompt or class of each, (n,)."""

    values: Tensor
    labels: Tensor


def score_records(sets: Statistics, scores: Mapping[str, Score]) -> dict[str, Any]:
    """By its name what each score says, as `docs/evaluation.md` describes; intervals by prompts."""
    return {
        name: {
            "library": score.library,
            "checksum": score.checksum,
            "resize": score.resize,
            **_record({who: _column(each, each.scores, at) for who, each in _scored(sets)}),
            "other_prompts": _mean(_column(sets["teacher"], sets["teacher"].others, at)),
        }
        for at, (name, score) in enumerate(scores.items())
    }


def diversity_record(sets: Statistics) -> dict[str, Any] | None:
    """How much images of one prompt or class differ; None where no two are of the same one."""
    found = {
        who: diversity(each.features, each.labels[: len(each.features)])
        for who, each in _scored(sets)
        if each.labels is not None
    }
    found = {who: each for who, each in found.items() if len(each.values)}
    if not {"student", "teacher", "floor"} <= found.keys():
        return None
    return _record(found) | {"n": len(sets["student"].features)}


def diversity(features: Tensor, labels: Tensor) -> Scored:
    """The mean distance of an image to the others of its label: 1 less the cosine of features.

    The mean over the pairs of n unit vectors u is 1 - (|sum u|^2 - n) / (n (n - 1)); so it does not
    depend on n, in expectation.

    Args:
        features: (N, D).
        labels: (N,) int64.

    Returns:
        A value for each label of two images or more.
    """
    kinds, group, counts = labels.unique(return_inverse=True, return_counts=True)
    unit = functional.normalize(features.double(), dim=1)
    sums = torch.zeros(len(kinds), unit.shape[1], dtype=torch.float64).index_add_(0, group, unit)
    several = counts > 1
    n, whole = counts[several].double(), sums[several].square().sum(1)
    return Scored(1 - (whole - n) / (n * (n - 1)), kinds[several])


def score_summary(metrics: Mapping[str, Any]) -> list[str]:
    """A table of the scores and the diversity, of those that there are."""
    rows = dict(metrics["scores"])
    if metrics["diversity"] is not None:
        rows["diversity"] = metrics["diversity"]
    if not rows:
        return []
    sides = ("student", "teacher", "difference", "floor", "other_prompts", "real")
    head = "".join(f"{side.replace('_', ' '):>14}" for side in sides)
    lines = [f"{'by prompts':18}{head}{'n':>8}"]
    for name, row in rows.items():
        cells = "".join(f"{row[x]['value']:>14.4g}" if row.get(x) else " " * 14 for x in sides)
        lines.append(f"{name:18}{cells}{row['n']:>8}")
    return lines


def _scored(sets: Statistics) -> list[tuple[str, SetStatistics]]:
    """Those sets that images are scored of, by their sides in a record."""
    found = ((name, sets.get(name)) for name in SCORED)
    return [(name, each) for name, each in found if each is not None]


def _column(of: SetStatistics, scores: Tensor, at: int) -> Scored:
    """One score of all images of a set that it says something of."""
    if of.labels is None or not scores.shape[1]:
        return Scored(torch.empty(0), torch.empty(0, dtype=torch.int64))
    values = scores[:, at]
    known = ~values.isnan()
    return Scored(values[known], of.labels[known])


def _record(found: Mapping[str, Scored]) -> dict[str, Any]:
    """Means of each side; the difference is paired, of images from the same noise and prompt."""
    student, teacher = found["student"], found["teacher"]
    less = Scored(student.values.double() - teacher.values.double(), student.labels)
    real = found.get("real")
    return {
        "n": len(student.values),
        "prompts": len(student.labels.unique()),
        **{side: _mean(found[side]) for side in ("student", "teacher", "floor")},
        "difference": _mean(less),
        "real": None if real is None else _mean(real),
    }


def _mean(found: Scored) -> dict[str, float | None] | None:
    if not len(found.values):
        return None
    return bootstrap.mean_over_groups(found.values, found.labels)._asdict()
