"""Figures and settings as tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import Config
from pipeline.report.charts import short
from pipeline.report.comparisons import SIDES, comparisons, features, real_images
from pipeline.report.source import FoundRun

FIGURES = (
    ("Fréchet distance to the teacher", "fd_teacher", None, "fd_floor", "n_teacher"),
    ("the same on pixels", "pixel_fd", None, "pixel_fd_floor", "n_teacher"),
    ("Fréchet distance to real images", "fd_real", "teacher_fd_real", None, "n_real"),
    ("real images, half to half", None, None, "real_floor", "n_real_floor"),
    ("accuracy", "accuracy", "teacher_accuracy", None, "n_teacher"),
    ("precision", "precision", "teacher_precision", None, "n_real_compared"),
    ("recall", "recall", "teacher_recall", None, "n_real_compared"),
    ("network calls", "metrics.speed.student.nfe", "nfe_teacher", None, None),
    ("ms per image, batch 1", "latency_ms", "teacher_latency_ms", None, None),
)
"""Title, and the names in evaluation.json of student, teacher, floor and n."""


@dataclass(frozen=True)
class Row:
    """One figure: of student, teacher and floor, in words, and the number of images.

    `real` tells the real images that it is against, if it is, from others.
    """

    title: str
    student: str
    teacher: str
    floor: str
    n: str
    real: str = ""


def figures(evaluation: dict[str, Any]) -> list[Row]:
    """The main figures, those that are there."""
    rows = []
    for title, *names in FIGURES:
        student, teacher, floor, n = (value(_named(evaluation, name)) for name in names)
        if student or teacher or floor:
            real = real_images(evaluation) if (names[-1] or "").startswith("n_real") else ""
            rows.append(Row(title, student, teacher, floor, n, real))
    return rows + _by_captions(evaluation)


def _named(evaluation: dict[str, Any], name: str | None) -> Any:
    """The figure of a dotted name; None if there is none."""
    found: Any = evaluation if name else None
    for key in (name or "").split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _by_captions(evaluation: dict[str, Any]) -> list[Row]:
    """What captions say, and how much images of one differ: `names_seen` and their like."""
    rows = []
    for name, sides in evaluation.items():
        if isinstance(sides, dict) and {"student", "teacher"} <= sides.keys():
            title, judged = name.replace("_", " "), "real" in sides
            if judged:
                title += f": right (real images {value(sides['real'])})"
            kind = _named(evaluation, f"metrics.{'captions' if judged else 'caption_diversity'}")
            parts = [each for each in kind or () if name.endswith(f"_{each}")]
            n = value(_named(kind, f"{parts[0]}.n")) if parts else ""
            rows.append(Row(title, value(sides["student"]), value(sides["teacher"]), "", n))
    return rows


def others(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """Every figure under its own name, records with all that belongs to them."""
    shown = {name: each for name, each in evaluation.items() if name != "verdict"}
    return [(name, found) for name, each in _flat(shown) if (found := value(each))]


def value(each: Any) -> str:
    """A figure in words; empty if there is none."""
    if isinstance(each, bool):
        return "yes" if each else "no"
    if isinstance(each, int | float):
        return short(float(each))
    return str(each) if isinstance(each, str) else ""


def side_by_side(runs: list[FoundRun]) -> list[tuple[str, str, list[str]]]:
    """Title, n and a cell for each run.

    Figures at another n, in other features or against another reference are another row.
    """
    rows: dict[tuple[str, ...], tuple[str, str, dict[int, str]]] = {}

    def put(number: int, key: tuple[str, ...], title: str, n: str, cell: str) -> None:
        if cell:
            rows.setdefault((*key, title), (title, n, {}))[2][number] = cell

    for number, run in enumerate(runs):
        kind = features(run.evaluation)
        for row in figures(run.evaluation):
            for side in SIDES:
                title = row.title if side == "student" else f"{row.title}, {side}"
                put(number, (row.title, kind, row.n, row.real), title, row.n, getattr(row, side))
        for table in comparisons(run.evaluation):
            for name, found in table.rows:
                for side, cell in zip(table.sides, found, strict=True):
                    title = f"{name} {table.title}, {side}"
                    put(number, table.key, title, table.n, cell)
    places = range(len(runs))
    return [
        (title, n, [cells.get(place, "") for place in places]) for title, n, cells in rows.values()
    ]


def changed(run: FoundRun) -> list[tuple[str, str, str]]:
    """Setting, value and default of the settings that are not the default; folders left out."""
    if run.settings is None:
        return []
    folder = run.settings.get("run")
    # Of a run elsewhere: the working directory may be a job's copy, which no run is allowed in.
    usual = dict(_flat(Config(run="/").model_dump(mode="json")))
    rows = []
    for name, each in _flat(run.settings):
        if each != usual.get(name) and not _within(folder, each):
            rows.append((name, _said(each), _said(usual.get(name))))
    return rows


def differences(runs: list[FoundRun]) -> list[tuple[str, list[str]]]:
    """Setting, and its value in each run, of those that differ; folders left out."""
    trees = [dict(_flat(run.settings or run.definition)) for run in runs]
    folders = [tree.get("run") for tree in trees]
    rows = []
    for name in dict.fromkeys(name for tree in trees for name in tree):
        cells = [tree.get(name) for tree in trees]
        inside = all(map(_within, folders, cells))
        if not inside and any(cell != cells[0] for cell in cells):
            rows.append((name, [_said(cell) for cell in cells]))
    return rows


def _within(folder: Any, place: Any) -> bool:
    """Whether a setting is a folder, or a place in it."""
    both = isinstance(folder, str) and isinstance(place, str)
    return both and f"{place}/".startswith(f"{folder.rstrip('/')}/")


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a tree under dotted names."""
    if isinstance(tree, dict) and tree:
        for key, branch in tree.items():
            yield from _flat(branch, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def _said(each: Any) -> str:
    return "–" if each is None else str(each)
