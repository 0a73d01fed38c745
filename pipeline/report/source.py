"""What a run has left so far, read from its folders: whatever is there, whole or not."""

import re
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from pipeline.config import S3Config, settings_yaml
from pipeline.data.storage import Storage
from pipeline.report.comparisons import comparisons
from pipeline.runs.checkpoint_store import CheckpointStore, Score
from pipeline.runs.events import FILE, Event, read_event
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.untrusted import plain, read_json, read_lines
from pipeline.utils.uris import is_remote, split

PICTURES = ("captions.png", "evaluation.png", "neighbours.png", "failures.png")
FRAMES = 24
"""Sample grids of one run that are shown at most, evenly chosen; the last always."""
LARGEST = 2**28
"""Bytes of a file that is read at most."""
MOST = 1000
"""Scores, evenly chosen, and newest events that are shown at most."""
_SETTING = "report.runs"
_MARKS = {"run.json", "metrics.jsonl", FILE}
_SCORE = TypeAdapter(Score)
_Value = TypeVar("_Value")


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
        prompts: The same of `distill.sample_prompts`.
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
    prompts: dict[int, bytes] = field(default_factory=dict)
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
    training = _Folder(run, Storage(place.distill, s3, "distill.output"))
    beside = _Folder(run, Storage(place.evaluation, s3, "evaluate.output"))
    if not _MARKS & training.names and "evaluation.json" not in beside.names:
        raise UserError(
            f"{place.distill}: nothing of a run is there yet; run jobs/distill.py, or give the "
            "folder of another run"
        )
    _read_training(run, training)
    run.evaluation = beside.take("evaluation.json", _evaluation) or {}
    for name in PICTURES:
        if png := beside.take(name, bytes):
            run.pictures[name] = png
    return run


def _read_training(run: FoundRun, folder: "_Folder") -> None:
    run.settings = folder.take("config.yaml", _settings)
    run.definition = folder.take("run.json", _object) or {}
    run.metrics = _in_order(folder.lines("metrics.jsonl", _figures))
    run.events = folder.lines(FILE, read_event)[-MOST:]
    run.skipped = sorted(set(folder.lines("skipped.jsonl", _step)))
    run.steps = folder.take("state.json", lambda data: _step(read_json(data)))
    scores = _Folder(run, folder.store / "checkpoints")
    for step, name in evenly(sorted(CheckpointStore(scores.store, keep=1).scored().items()), MOST):
        if score := scores.take(name, lambda data: _SCORE.validate_python(read_json(data))):
            run.scores[step] = score
    samples = _Folder(run, folder.store / "samples")
    for kind, pictures in (("step", run.grids), ("prompts", run.prompts)):
        found = (re.fullmatch(rf"{kind}-(\d+)\.png", name) for name in samples.names)
        known = sorted((int(each[1]), each[0]) for each in found if each)
        for step, name in evenly(known, FRAMES):
            if png := samples.take(name, bytes):
                pictures[step] = png


def evenly(values: list[Any], most: int) -> list[Any]:
    """At most so many of the values, the first and the last among them, evenly chosen."""
    if len(values) <= most:
        return values
    return [values[round(n * (len(values) - 1) / (most - 1))] for n in range(most)]


class _Folder:
    """Files of a run in one folder: each is read by itself, and what it cannot give is told."""

    def __init__(self, run: FoundRun, store: Storage) -> None:
        self._troubles, self.store, self._sizes = run.troubles, store, store.list()

    @property
    def names(self) -> Set[str]:
        return self._sizes.keys()

    def take(self, name: str, read: Callable[[bytes], _Value]) -> _Value | None:
        """What a file holds; None if it is not there, or cannot be read, which is a trouble."""
        if name not in self.names:
            return None
        try:
            return read(self._content(name))
        except (ValueError, UserError) as error:
            self._troubles.append(f"{name} cannot be read: {first_line(error)[:300]}")
            return None

    def lines(self, name: str, read: Callable[[Any], _Value]) -> list[_Value]:
        """The lines of a file that are whole; damaged ones are a trouble."""
        found, damaged = self.take(name, lambda data: read_lines(data, read)) or ([], 0)
        if damaged:
            self._troubles.append(f"{name} has {damaged:,} damaged lines: left out")
        return found

    def _content(self, name: str) -> bytes:
        if self._sizes[name] > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        if self.store.folder is not None:
            folder, file = self.store.folder.resolve(), self.store.folder / name
            if file.is_symlink() and not file.resolve().is_relative_to(folder):
                raise ValueError("it is a link out of its folder; put the file itself there")
        return self.store.get(name)


def _settings(data: bytes) -> dict[str, Any]:
    return plain(settings_yaml.read_text(data, "config.yaml"))


def _object(data: bytes) -> dict[str, Any]:
    found = read_json(data)
    if not isinstance(found, dict):
        raise ValueError("it holds no table of names and values")
    return found


def _evaluation(data: bytes) -> dict[str, Any]:
    found = _object(data)
    comparisons(found)
    return found


def _figures(line: Any) -> dict[str, float]:
    """The figures of a step by their names."""
    _step(line)
    return {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _step(line: Any) -> int:
    step = line.get("step") if isinstance(line, dict) else None
    if isinstance(step, bool) or not isinstance(step, int):
        raise ValueError("it has no step")
    return step


def _in_order(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """By steps; of one that was done again, the last line."""
    known = {line["step"]: line for line in lines}
    return [known[step] for step in sorted(known)]
