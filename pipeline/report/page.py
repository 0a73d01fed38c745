"""The page: one HTML file of a run, or of several, that asks the network for nothing."""

import base64
import hashlib
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config import Config, settings_yaml
from pipeline.report import tables
from pipeline.report.charts import Chart, short
from pipeline.report.comparisons import Table, comparisons, features
from pipeline.report.curves import Split, compared, curves, time_split
from pipeline.report.frames import ACROSS, FEW, Figure, figure
from pipeline.report.source import FoundRun, Place, find, read_run, short_name
from pipeline.report.words import (
    Entry,
    Status,
    moment,
    reached,
    status,
    timeline,
    trained,
    verdict,
)
from pipeline.utils.files import check_writable, write_file
from pipeline.utils.progress import duration

_PICTURES = {
    "captions.png": (
        "The same captions",
        "Real images, what the VAE keeps of them, and what teacher and student make of the "
        "captions: first of some seen in training, then of combinations that were held out.",
    ),
    "evaluation.png": (
        "The same noise",
        "Noise, what the teacher's many steps make of it, and what the student makes of it.",
    ),
    "neighbours.png": (
        "The nearest real images",
        "If the student only repeated real images, each would have a twin here.",
    ),
    "failures.png": ("Where it fails", "Images that a classifier reads as another class."),
}


@dataclass(frozen=True)
class Tile:
    """A large figure with a line below it; `of` says of what images and features it is, if any."""

    label: str
    figure: str
    note: str
    of: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of the evaluation with its title."""

    title: str
    text: str
    figure: Figure


@dataclass(frozen=True)
class View:
    """A run as the page shows it."""

    name: str
    where: str
    status: Status
    tiles: list[Tile]
    verdict: list[str]
    pictures: list[Picture]
    frames: dict[int, Figure]
    prompts: dict[int, Figure]
    charts: list[Chart]
    split: list[Split]
    timeline: list[Entry]
    machine: dict[str, str]
    figures: list[tables.Row]
    comparisons: list[Table]
    features: str
    others: list[tuple[str, str]]
    changed: list[tuple[str, str, str]]
    settings: str
    troubles: list[str]


def report(config: Config) -> Path:
    """Make the report of the runs in `report.runs`, or of the settings' own run.

    Returns:
        The file.

    Raises:
        UserError: If a run is not there or a store refuses, or the file cannot be written.
    """
    named, evaluation = config.report.runs, config.evaluate.output
    places = [find(path, config.s3) for path in named] or [
        Place(short_name(config.run), config.distill.output, evaluation)
    ]
    file = Path(config.report_file)
    check_writable(file.parent, "report.output")
    runs = [read_run(place, config.s3) for place in places]
    write_file(file, render(runs).encode(errors="replace"))
    print(f"report   {file}")
    return file


def render(runs: list[FoundRun], now: float | None = None) -> str:
    """The page as text.

    Args:
        runs: One, or several to compare.
        now: Seconds since 1970; by default this moment.
    """
    now = time.time() if now is None else now
    templates = _templates()
    script, style = (
        templates.loader.get_source(templates, name)[0]  # type: ignore[union-attr]
        for name in ("report.js", "report.css")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    views = comparable([view(run, now) for run in runs])
    several = len(runs) > 1
    return templates.get_template("compare.html" if several else "run.html").render(
        views=views,
        run=views[0],
        style=style,
        script=script,
        digest=digest,
        made=moment(now),
        charts=compared(runs) if several else [],
        rows=tables.side_by_side(runs) if several else [],
        differences=tables.differences(runs) if several else [],
    )


def comparable(views: list[View]) -> list[View]:
    """The same, without tiles that are of other images or features in another run."""
    sizes: dict[str, set[str]] = {}
    for tile in (tile for each in views for tile in each.tiles):
        sizes.setdefault(tile.label, set()).add(tile.of)
    return [
        replace(each, tiles=[tile for tile in each.tiles if len(sizes[tile.label]) == 1])
        for each in views
    ]


def view(run: FoundRun, now: float) -> View:
    """Everything the page shows of a run."""
    troubles = list(run.troubles)
    pictures = []
    for name, (title, text) in _PICTURES.items():
        if name in run.pictures and (found := _figure(run.pictures[name], title, name, troubles)):
            pictures.append(Picture(title, text, found))
    machines = [event.machine for event in run.events if event.machine]
    settings = run.settings or run.definition
    return View(
        name=run.place.name,
        where=run.place.distill,
        status=status(run, now),
        tiles=tiles(run),
        verdict=verdict(run.evaluation),
        pictures=pictures,
        frames=_frames(run.grids, "step", "Samples", ACROSS, troubles),
        prompts=_frames(run.prompts, "prompts", "Prompts", FEW, troubles),
        charts=curves(run),
        split=time_split(run),
        timeline=timeline(run),
        machine=machines[-1] if machines else {},
        figures=tables.figures(run.evaluation),
        comparisons=comparisons(run.evaluation),
        features=features(run.evaluation),
        others=tables.others(run.evaluation),
        changed=tables.changed(run),
        settings=settings_yaml.dump(settings) if settings else "",
        troubles=troubles,
    )


def _frames(
    pngs: dict[int, bytes], kind: str, words: str, across: int, troubles: list[str]
) -> dict[int, Figure]:
    """Pictures of one kind by their steps, those that can be read."""
    found = {
        step: _figure(
            png, f"{words} at step {step:,}", f"samples/{kind}-{step:07d}.png", troubles, across
        )
        for step, png in pngs.items()
    }
    return {step: each for step, each in found.items() if each}


def _figure(
    png: bytes, alt: str, name: str, troubles: list[str], across: int = ACROSS
) -> Figure | None:
    try:
        return figure(png, alt, across)
    except OSError as error:
        troubles.append(f"{name} cannot be read: {error}")
        return None


def tiles(run: FoundRun) -> list[Tile]:
    """The figures that one wants to see first, those that are there."""
    found, get = [], run.evaluation.get
    value = {name: each for name, each in run.evaluation.items() if isinstance(each, int | float)}
    of = f"{value.get('n_teacher')} {features(run.evaluation)}"
    if "speedup" in value:
        times = [tables.value(get(name)) for name in ("latency_ms", "teacher_latency_ms")]
        note = f"{times[0]} instead of {times[1]} ms an image" if all(times) else "a single image"
        found.append(Tile("Faster than the teacher", f"{value['speedup']:.0f}×", note))
    if "fd_teacher" in value:
        note = " · ".join(
            f"{word} {tables.value(get(name))}"
            for word, name in (("floor", "fd_floor"), ("n", "n_teacher"))
            if name in value
        )
        found.append(Tile("Fréchet to the teacher", short(value["fd_teacher"]), note, of))
    if "accuracy" in value:
        usual = f"teacher {value['teacher_accuracy']:.1%}" if "teacher_accuracy" in value else ""
        found.append(Tile("Accuracy", f"{value['accuracy']:.1%}", usual, of))
    if not value and run.scores:
        step, score = list(run.scores.items())[-1]
        note = f"step {step:,} · n {score.n:,}"
        if score.floor is not None:
            note += f" · floor {short(score.floor)}"
        found.append(
            Tile("Fréchet to the teacher", short(score.fd_teacher), note, f"{score.n} beside")
        )
    if (done := reached(run)) and (spent := trained(run)) is not None:
        found.append(Tile("Steps", f"{done:,}", f"{duration(spent)} of training"))
    elif done:
        found.append(Tile("Steps", f"{done:,}", ""))
    return found


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["short"] = short
    templates.filters["duration"] = duration
    return templates
