"""Sets of images against a reference, by every metric."""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.evaluation.metrics.metric import Estimates, FeatureSet, TwoSets
from pipeline.evaluation.metrics.registry import METRICS
from pipeline.evaluation.statistics import GROUPS, Statistics

HALF, OTHER_HALF = tuple(range(0, GROUPS, 2)), tuple(range(1, GROUPS, 2))


class Figure(NamedTuple):
    """A figure of some sets: what computed it, and name of a set -> its estimate."""

    packages: tuple[str, ...]
    sets: Estimates


class Comparison(NamedTuple):
    """Sets of equal size against a reference of that size.

    Attributes:
        n: Images of the reference, and of each set.
        figures: By their names.
    """

    n: int
    figures: dict[str, Figure]


def compare(
    reference: FeatureSet,
    others: Mapping[str, FeatureSet],
    *,
    same_noise: str | None = None,
    slow: bool = True,
) -> list[Comparison]:
    """All figures of some sets against a reference, those of equal n together.

    Args:
        reference: What the sets are compared with.
        others: The sets, as large as the reference and in parts like its own.
        same_noise: The set that comes from the same noise as the reference.
        slow: Whether to take slow metrics too.
    """
    sizes = {"moments": reference.count, "features": len(reference.kept)}
    found = {n: Comparison(n, {}) for n in sizes.values()}
    for metric in METRICS.values():
        if metric.slow and not slow:
            continue
        figures = found[sizes[metric.needs]].figures
        for name, other in others.items():
            estimates = metric.measure(TwoSets(reference, other, name == same_noise))
            for figure, estimate in estimates.items():
                figures.setdefault(figure, Figure(metric.packages, {})).sets[name] = estimate
    return list(found.values())


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


def compare_all(sets: Statistics) -> Compared:
    """Compare all sets with their references; slow metrics take the real images, if any."""
    has_real = "real" in sets
    by_teacher = compare(
        sets["teacher"].feature_set(),
        {"student": sets["student"].feature_set(), "floor": sets["floor"].feature_set()},
        same_noise="student",
        slow=not has_real,
    )
    if not has_real:
        return Compared(by_teacher, [], [])
    real, student, teacher = (sets[name] for name in ("real", "student_real", "teacher_real"))
    whole = compare(
        real.feature_set(), {"student": student.feature_set(), "teacher": teacher.feature_set()}
    )
    half = compare(
        real.feature_set(HALF),
        {
            "student": student.feature_set(HALF),
            "teacher": teacher.feature_set(HALF),
            "floor": real.feature_set(OTHER_HALF),
        },
    )
    return Compared(by_teacher, whole, half)
