"""The curves of a run, and of several runs in one figure."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.report.charts import Chart, Line
from pipeline.report.reference import Reference, reference
from pipeline.report.source import FoundRun

LABELS = {
    "regression": ("regression", "student"),
    "matching_gradient": ("matching gradient", "matching"),
    "critic": ("critic", "critic"),
    "lr_student": ("student", "student"),
    "lr_critic": ("critic", "critic"),
    "student_norm": ("student", "student"),
    "critic_norm": ("critic", "critic"),
    "sample_std": ("standard deviation", "student"),
    "sample_mean": ("mean", "data"),
    "probe_contrast": ("contrast", "student"),
    "probe_diversity": ("diversity", "critic"),
    "probe_coverage": ("coverage", "matching"),
    "probe_motion": ("motion", "data"),
    "samples_per_second": ("samples per second", "student"),
    "tflops": ("TFLOP/s", "student"),
    "mfu": ("share", "student"),
}
"""Name in metrics.jsonl -> label, and colour where one run is shown."""

_FIGURES = (
    (
        "Losses",
        ("regression", "matching_gradient", "critic"),
        "log",
        "Means since the line before.",
    ),
    ("Gradient norms", ("student_norm", "critic_norm"), "log", "Before clipping."),
    ("Learning rates", ("lr_student", "lr_critic"), "log", "Of the line's last step."),
    (
        "The student's samples",
        ("sample_std", "sample_mean"),
        "",
        "A standard deviation that falls to half of its first value is a student that collapses.",
    ),
    (
        "Beside the teacher",
        ("probe_contrast", "probe_diversity", "probe_coverage", "probe_motion"),
        "zero",
        "Images of one fixed noise: 1 is as the teacher's. Diversity is that of one condition.",
    ),
    ("Speed", ("samples_per_second",), "zero", "Student samples a second, over all workers."),
    ("Work", ("tflops",), "zero", "The networks' own, in each worker's TFLOP/s."),
    ("Share of the peak", ("mfu",), "zero", "That work / the most that the GPU can do."),
)
_MOST = 100
"""Figures of other methods that are drawn at most."""
PARTS = {
    "data": "data",
    "student": "student",
    "critic": "critic",
    "picture": "pictures",
    "checkpoint": "checkpoints",
}
"""Part of a step's time in metrics.jsonl -> its name."""


def phases(run: FoundRun) -> list[tuple[float, float, str]]:
    """From, to and name of the parts of the training, in steps."""
    for tree in (run.definition, run.settings or {}):
        distill = tree.get("distill")
        if isinstance(distill, dict):
            first, burn_in = distill.get("regression_steps"), distill.get("burn_in_steps")
            if isinstance(first, int) and isinstance(burn_in, int):
                second = first + burn_in
                return [(0, first, "regression"), (first, second, "burn-in"), (second, 1e12, "DMD")]
    return []


def points(run: FoundRun, name: str) -> list[tuple[float, float]]:
    """Every line of metrics that has a figure, as (step, value)."""
    return [(line["step"], line[name]) for line in run.metrics if name in line]


def curves(run: FoundRun) -> list[Chart]:
    """All figures of one run."""
    marks = [
        (float(event.step), "") for event in run.events if event.kind == "start" and event.step
    ]
    found = _scores([run], lambda run, line: line, marks)
    known = reference(run.settings)
    for title, names, kind, note in _FIGURES:
        lines = [Line(LABELS[name][0], points(run, name), LABELS[name][1]) for name in names]
        if known and (behind := _behind(known, names)) and any(line.points for line in lines):
            lines, note = (
                [*behind, *lines],
                f"{note} Broad and faint: a healthy {known.recipe} run.",
            )
        found.append(_chart(title, lines, kind, note, phases(run), marks))
    for name in _others(run):
        lines = [Line(name, points(run, name), "student")]
        found.append(_chart(name.replace("_", " "), lines, "log", "", phases(run), marks))
    found.append(progress(run))
    return [chart for chart in found if chart.lines]


def _behind(known: Reference, names: tuple[str, ...]) -> list[Line]:
    """The curves of a healthy run that a figure has."""
    dressed = [(known.points(name), *LABELS[name]) for name in names]
    return [
        Line(f"{label}, healthy", there, colour, behind=True)
        for there, label, colour in dressed
        if there
    ]


def _others(run: FoundRun) -> list[str]:
    """Figures of the losses of methods that have no place above."""
    names = {name for line in run.metrics for name in line}
    known = LABELS.keys() | {"step", "time", "phase", "skipped", "memory_gib"}
    return sorted(name for name in names - known if not name.startswith("seconds_"))[:_MOST]


def compared(runs: list[FoundRun]) -> list[Chart]:
    """One figure for each curve, all runs in it."""

    def of_run(run: FoundRun, line: Line) -> Line:
        colour = f"run-{runs.index(run) % 6}"
        label = run.place.name if not line.dashed else f"{run.place.name}, {line.label}"
        return Line(label, line.points, colour, line.dashed, line.dots)

    found = _scores(runs, of_run, [])
    for title, names, kind, note in _FIGURES:
        for name in names:
            lines = [of_run(run, Line("", points(run, name), "")) for run in runs]
            label = title if len(names) == 1 else f"{title}: {LABELS[name][0]}"
            found.append(_chart(label, lines, kind, note, [], []))
    for name in sorted({name for run in runs for name in _others(run)})[:_MOST]:
        lines = [of_run(run, Line("", points(run, name), "")) for run in runs]
        found.append(_chart(name.replace("_", " "), lines, "log", "", [], []))
    return [chart for chart in found if chart.lines]


def _scores(
    runs: list[FoundRun], dress: Callable[[FoundRun, Line], Line], marks: list[tuple[float, str]]
) -> list[Chart]:
    """Fréchet distances measured beside training: a figure for each count and kind of features."""
    charts = []
    kinds = {(score.n, score.features or "") for run in runs for score in run.scores.values()}
    for n, features in sorted(kinds):
        lines = []
        for run in runs:
            mine = {
                step: score
                for step, score in run.scores.items()
                if (score.n, score.features or "") == (n, features)
            }
            curve = [(float(step), score.fd_teacher) for step, score in mine.items()]
            lines.append(dress(run, Line("student", curve, "student", dots=True)))
            floors = [score.floor for score in mine.values() if score.floor is not None]
            if floors and curve:
                steps = [curve[0][0], max(curve[-1][0], curve[0][0] + 1)]
                flat = [(step, floors[-1]) for step in steps]
                lines.append(dress(run, Line("floor", flat, "data", dashed=True)))
        note = (
            f"Averaged student against teacher, {n:,} images of each"
            f"{f', in {features}' if features else ''}. The floor is the teacher against itself "
            "from other noise."
        )
        spans = phases(runs[0]) if len(runs) == 1 else []
        values = [y for line in lines for _, y in line.points]
        kind = "log" if max(values) > 10 * max(min(values), 1e-12) else "zero"
        charts.append(_chart("Fréchet distance to the teacher", lines, kind, note, spans, marks))
    return charts


def _chart(
    title: str,
    lines: list[Line],
    kind: str,
    note: str,
    spans: list[tuple[float, float, str]],
    marks: list[tuple[float, str]],
) -> Chart:
    return Chart(
        title, lines, note, log=kind == "log", zero=kind == "zero", spans=spans, marks=marks
    )


def progress(run: FoundRun) -> Chart:
    """Steps against the clock: a line for each attempt, what was lost included."""
    starts = [event for event in run.events if event.kind == "start"]
    if not starts:
        return Chart("Steps against the clock", [])
    zero, lines = starts[0].time, []
    for number, start in enumerate(starts):
        after = starts[number + 1] if number + 1 < len(starts) else None
        until = after.time if after else float("inf")
        kept = [
            (line["time"], line["step"])
            for line in run.metrics
            if "time" in line and start.time <= line["time"] < until
        ]
        track = [(start.time, float(start.step)), *kept]
        if after and after.reached and after.reached_at and after.reached_at >= track[-1][0]:
            track.append((after.reached_at, float(after.reached)))
        minutes = [((when - zero) / 60, step) for when, step in track]
        lines.append(Line(f"attempt {number + 1}", minutes, f"run-{number % 6}"))
    return Chart(
        "Steps against the clock",
        lines,
        "A line that ends and one that begins lower: an attempt that was lost, and the next one, "
        "which goes on from a checkpoint."
        if len(lines) > 1
        else "",
        x="minute",
        zero=True,
    )


@dataclass(frozen=True)
class Split:
    """Where a step's time goes in one part of the training.

    Attributes:
        phase: Its name.
        seconds: Of a step.
        parts: (name, colour, part of the time in percent, milliseconds).
        host: Percent of the GPU's time in which the host was still giving it work; None if it is
            not known.
    """

    phase: str
    seconds: float
    parts: list[tuple[str, str, float, float]]
    host: float | None


def time_split(run: FoundRun) -> list[Split]:
    """Mean time of a step by its parts, for every phase."""
    found = []
    for first, last, phase in phases(run) or [(0, 1e12, "all steps")]:
        lines = _weighted(run, first, last)
        total = _mean(lines, "seconds_step")
        if not total:
            continue
        means = {name: _mean(lines, f"seconds_{key}") for key, name in PARTS.items()}
        means["other"] = max(0.0, total - sum(means.values()))
        parts = [
            (name, _COLOURS[name], 100 * value / total, 1000 * value)
            for name, value in means.items()
            if value > 0.001 * total
        ]
        host, device = (_mean(lines, f"seconds_{name}") for name in ("host", "device"))
        found.append(Split(phase, total, parts, 100 * host / device if device > 0 else None))
    return found


_COLOURS = {
    "data": "data",
    "student": "student",
    "critic": "critic",
    "pictures": "picture",
    "checkpoints": "checkpoint",
    "other": "other",
}


def _weighted(run: FoundRun, first: float, last: float) -> list[tuple[float, dict[str, float]]]:
    """(steps that a line stands for, the line) of the lines in a part of the training."""
    steps = [line["step"] for line in run.metrics]
    sizes = [step - before for step, before in zip(steps, [0.0, *steps], strict=False)]
    return [
        (size, line)
        for size, line in zip(sizes, run.metrics, strict=True)
        if first < line["step"] <= last and size > 0
    ]


def _mean(lines: list[tuple[float, dict[str, float]]], name: str) -> float:
    weight = sum(size for size, line in lines if "seconds_step" in line)
    return sum(size * line.get(name, 0.0) for size, line in lines) / weight if weight else 0.0
