"""What a run has left so far, read from its folders: whatever is there, whole or not."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.config import S3Config, settings_yaml
from pipeline.data.storage import Storage, Store
from pipeline.report.comparisons import comparisons
from pipeline.runs.checkpoint_store import CheckpointStore, Score
from pipeline.runs.events import FILE, Event, read_events
from pipeline.utils.errors import UserError
from pipeline.utils.uris import is_remote, split

PICTURES = ("evaluation.png", "neighbours.png", "failures.png")
FRAMES = 24
"""Sample grids of one run that are shown at most, evenly chosen; the last always."""
_SETTING = "report.runs"
_MARKS = {"run.json", "metrics.jsonl", FILE}


@dataclass(frozen=True)
class Place:
    """Where a run is.

    Attributes:
        name: Of the run, for people.
        distill: Folder of its training.
        evaluation: Folder of its evaluation.
    """

    name: str
    distill: str
    evaluation: str


@dataclass
class FoundRun:
    """What was found of a run.

    Attributes:
        place: Where.
        settings: All of them, of the newest start; None if they were not kept.
        definition: What defines the optimisation.
        metrics: Lines of metrics.jsonl, finite numbers by name.
        events: Starts, ends and failures.
        scores: By step.
        grids: Step -> PNG.
        skipped: Steps without a finite gradient.
        steps: Steps done at the end; None if there was no end yet.
        evaluation: Contents of evaluation.json.
        pictures: Name of a file of the evaluation -> PNG.
        troubles: What could not be read, and why.
    """

    place: Place
    settings: dict[str, Any] | None = None
    definition: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    scores: dict[int, Score] = field(default_factory=dict)
    grids: dict[int, bytes] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    steps: int | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


def find(path: str, s3: S3Config) -> Place:
    """The run in a folder: that of `run`, or that of `distill.output`.

    Raises:
        UserError: If there is none, or the store refuses.
    """
    path = path.rstrip("/") if is_remote(path) else str(Path(path).resolve())
    for distill, evaluation in ((f"{path}/distill", path), (path, path.removesuffix("/distill"))):
        if _MARKS & Storage(distill, s3, _SETTING).list().keys():
            return Place(short_name(evaluation), distill, evaluation)
    if "evaluation.json" in Storage(path, s3, _SETTING).list():
        return Place(short_name(path), f"{path}/distill", path)
    raise UserError(
        f"{_SETTING}: there is no run in {path}: neither distill/metrics.jsonl nor "
        "evaluation.json; give the folder that `run` or distill.output names"
    )


def short_name(path: str) -> str:
    """The last two parts of a path: runs/digits/seed-0 is digits/seed-0."""
    return "/".join([part for part in split(path)[1].split("/") if part][-2:])


def read_run(place: Place, s3: S3Config) -> FoundRun:
    """Read all that is there; what is damaged becomes one of the `troubles`.

    Raises:
        UserError: If nothing of a run is there, or a store refuses.
    """
    run = FoundRun(place)
    store = Storage(place.distill, s3, "distill.output")
    names = store.list()
    _read_training(run, store, names.keys())
    beside = Storage(place.evaluation, s3, "evaluate.output")
    there = beside.list()
    if "evaluation.json" in there:
        run.evaluation = _take(run, beside, "evaluation.json", _evaluation) or {}
    for name in PICTURES:
        if name in there and (png := _take(run, beside, name, lambda data: data)):
            run.pictures[name] = png
    if not _MARKS & names.keys() and "evaluation.json" not in there:
        raise UserError(
            f"{place.distill}: nothing of a run is there yet; run jobs/distill.py, or give the "
            "folder of another run"
        )
    return run


def _read_training(run: FoundRun, store: Storage, names: Any) -> None:
    if "config.yaml" in names:
        read = partial(settings_yaml.read_text, path="config.yaml")
        run.settings = _take(run, store, "config.yaml", read)
    if "run.json" in names:
        run.definition = _take(run, store, "run.json", _object) or {}
    if "metrics.jsonl" in names:
        run.metrics = _take(run, store, "metrics.jsonl", _metrics) or []
    if FILE in names:
        run.events = _take(run, store, FILE, lambda data: read_events(data.decode())) or []
    if "skipped.jsonl" in names:
        run.skipped = _take(run, store, "skipped.jsonl", _skipped) or []
    if "state.json" in names:
        state = _take(run, store, "state.json", _object) or {}
        run.steps = state["step"] if isinstance(state.get("step"), int) else None
    checkpoints = CheckpointStore(store / "checkpoints", keep=1)
    for step, name in sorted(checkpoints.scored().items()):
        if score := _take(run, checkpoints.store, name, TypeAdapter(Score).validate_json):
            run.scores[step] = score
    samples = store / "samples"
    found = (re.fullmatch(r"step-(\d+)\.png", name) for name in samples.list("step-"))
    known = sorted((int(each[1]), each[0]) for each in found if each)
    for step, name in evenly(known, FRAMES):
        if png := _take(run, samples, name, lambda data: data):
            run.grids[step] = png


def evenly(values: list[Any], most: int) -> list[Any]:
    """At most so many of the values, the first and the last among them, evenly chosen."""
    if len(values) <= most:
        return values
    return [values[round(n * (len(values) - 1) / (most - 1))] for n in range(most)]


def _take(run: FoundRun, store: Store, name: str, read: Callable[[bytes], Any]) -> Any:
    """What a file holds; None, and a trouble, if it cannot be read."""
    try:
        return read(store.get(name))
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, UserError) as error:
        run.troubles.append(f"{name} cannot be read: {error}")
        return None


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it holds no table of names and values")
    return found


def _evaluation(data: bytes) -> dict[str, Any]:
    found = _object(data)
    comparisons(found)
    return found


def _metrics(data: bytes) -> list[dict[str, float]]:
    """Lines with a step, in order of steps; a line that is torn is left out."""
    lines: dict[float, dict[str, float]] = {}
    for line in _lines(data):
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and isfinite(value)
        }
        if "step" in numbers:
            lines[numbers["step"]] = numbers
    return [lines[step] for step in sorted(lines)]


def _skipped(data: bytes) -> list[int]:
    return sorted({line["step"] for line in _lines(data) if isinstance(line.get("step"), int)})


def _lines(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.decode(errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]
