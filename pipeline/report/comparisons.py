"""What `evaluation.json` says under `metrics`: figures with intervals, a table a reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.report.charts import short

SIDES = ("student", "teacher", "floor")
BY_PROMPTS = ("student", "teacher", "difference", "floor", "other_prompts", "real")


class _Estimate(BaseModel):
    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """The value, and the interval that holds 95%."""
        if self.low is None or self.high is None:
            return short(self.value)
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


class _Figure(BaseModel):
    student: _Estimate | None = None
    teacher: _Estimate | None = None
    floor: _Estimate | None = None


class _Score(_Figure):
    checksum: str | None = None
    resize: str | None = None
    n: int
    difference: _Estimate | None = None
    other_prompts: _Estimate | None = None
    real: _Estimate | None = None


class _Comparison(BaseModel):
    reference: dict[str, str]
    n: int
    figures: dict[str, _Figure]


class _Features(BaseModel):
    name: str
    library: str | None = None
    checksum: str | None = None
    resize: str | None = None


class _Metrics(BaseModel):
    features: _Features | None = None
    comparisons: list[_Comparison] = []
    scores: dict[str, _Score] = {}
    diversity: _Score | None = None


@dataclass(frozen=True)
class Table:
    """Figures that may be compared: one reference, one n, one kind of features.

    Attributes:
        title: What they are held against, after "recall" for example.
        n: Images of each set.
        key: What two tables must share for their figures to stand side by side.
        sides: Of student, teacher and floor those that have a figure.
        rows: A figure's name, and its values by these sides, in words.
    """

    title: str
    n: str
    key: tuple[str, ...]
    sides: list[str]
    rows: list[tuple[str, list[str]]]


def comparisons(evaluation: dict[str, Any]) -> list[Table]:
    """All tables of an evaluation; none of one from before they were kept.

    Raises:
        ValueError: If the records are damaged.
    """
    metrics = _read(evaluation)
    kind = metrics.features or _Features(name="")
    of_features = (kind.name, kind.checksum or "", kind.resize or "")
    tables = [_table(each, of_features) for each in metrics.comparisons]
    scores = metrics.scores | ({"diversity": metrics.diversity} if metrics.diversity else {})
    return [*tables, *_by_prompts(scores, of_features)]


def real_images(evaluation: dict[str, Any]) -> str:
    """What tells the real images of an evaluation from others; empty without any.

    Raises:
        ValueError: As `comparisons`.
    """
    found = (each.reference for each in _read(evaluation).comparisons)
    return next((str(sorted(each.items())) for each in found if each.get("name") == "real"), "")


def _table(found: _Comparison, of_features: tuple[str, ...]) -> Table:
    figures = found.figures
    sides = [side for side in SIDES if any(getattr(each, side) for each in figures.values())]
    return Table(
        f"against {found.reference.get('name', '')}",
        f"{found.n:,}",
        (*of_features, *sorted(found.reference.values()), str(found.n)),
        sides,
        [
            (name, [str(getattr(each, side) or "") for side in sides])
            for name, each in figures.items()
        ],
    )


def _by_prompts(found: dict[str, _Score], of_features: tuple[str, ...]) -> Iterator[Table]:
    """Scores of as many images together."""
    for n in dict.fromkeys(each.n for each in found.values()):
        same = {name: each for name, each in found.items() if each.n == n}
        sides = [side for side in BY_PROMPTS if any(getattr(x, side) for x in same.values())]
        weights = [part for x in same.values() for part in (x.checksum or "", x.resize or "")]
        yield Table(
            "by prompts",
            f"{n:,}",
            (*of_features, *weights, str(n)),
            [side.replace("_", " ") for side in sides],
            [(name, [str(getattr(x, side) or "") for side in sides]) for name, x in same.items()],
        )


def features(evaluation: dict[str, Any]) -> str:
    """What the images are compared in, in a line; empty if it was not kept.

    Raises:
        ValueError: As `comparisons`.
    """
    kind = _read(evaluation).features
    if kind is None:
        return ""
    parts = [kind.name, kind.library, kind.checksum and f"weights {kind.checksum[:12]}"]
    resize = f"resized: {kind.resize}" if kind.resize and kind.resize != "none" else None
    return ", ".join(part for part in (*parts, resize) if part)


def _read(evaluation: dict[str, Any]) -> _Metrics:
    try:
        return _Metrics.model_validate(evaluation.get("metrics") or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"metrics.{place}: {first['msg']}") from None
