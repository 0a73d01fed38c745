"""What the report says in words: how the run stands, what happened when, what its figures mean."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline.report.charts import short
from pipeline.report.source import FoundRun
from pipeline.runs.events import Event
from pipeline.utils.progress import duration

_SILENCE = 300.0
"""Seconds without a line of metrics after which a run is taken for dead, at least."""

Mood = Literal["good", "going", "bad", "plain"]


@dataclass(frozen=True)
class Status:
    """How a run stands, in two or three words and in a sentence."""

    mood: Mood
    word: str
    text: str


@dataclass(frozen=True)
class Entry:
    """A line of the timeline; `when` is empty where it is not known, `more` is for who asks."""

    mood: Mood
    when: str
    text: str
    more: str = ""


def reached(run: FoundRun) -> int:
    """Steps done, as far as is known."""
    logged = int(run.metrics[-1]["step"]) if run.metrics else 0
    noted = run.events[-1].step if run.events else 0
    return max(run.steps or 0, logged, noted, *run.grids, 0)


def target(run: FoundRun) -> int | None:
    """Steps that the run is to do."""
    distill = (run.settings or {}).get("distill")
    steps = distill.get("steps") if isinstance(distill, dict) else None
    return steps if isinstance(steps, int) else run.steps


def status(run: FoundRun, now: float | None = None) -> Status:
    """How the run stands at a time, by default now."""
    now = time.time() if now is None else now
    done, aim = reached(run), target(run)
    of = f"{done:,} of {aim:,} steps" if aim else f"{done:,} steps"
    last = next((each for each in reversed(run.events) if each.kind != "finding"), None)
    if run.steps is not None and not (aim and run.steps < aim):
        return Status("good", "finished", f"{run.steps:,} steps done.")
    if last is None:
        return Status("plain", "unknown", f"{of} done; the run left no journal.")
    if last.kind == "end":
        return Status("good", "trained", f"{of} done; its student is not saved yet.")
    if last.kind == "left":
        return Status("plain", "stopped", f"Stopped at {of}; the same command goes on.")
    if last.kind == "roll_back":
        return Status("plain", "went back", f"Went back to step {last.step:,}, and goes on there.")
    if last.kind == "failed":
        return Status("bad", "failed", f"Failed at {of}: {last.error}")
    sign = max(last.time, run.metrics[-1].get("time", 0.0) if run.metrics else 0.0)
    quiet = now - sign
    if quiet < max(_SILENCE, 5 * _interval(run)):
        return Status("going", "running", f"{of} done; last heard of {duration(quiet)} ago.")
    return Status(
        "bad", "silent", f"{of} done; nothing was heard of it for {duration(quiet)}: it was killed?"
    )


def timeline(run: FoundRun) -> list[Entry]:
    """Everything that is known to have happened, in order."""
    entries, before = list[Entry](), None
    for event in run.events:
        entries.append(_entry(event, before))
        before = before if event.kind == "finding" else event
    if run.skipped:
        steps = ", ".join(f"{step:,}" for step in run.skipped[:8])
        more = f" and {len(run.skipped) - 8} more" if len(run.skipped) > 8 else ""
        text = f"Left out for want of a finite gradient: steps {steps}{more}."
        entries.append(Entry("bad", "", text))
    return entries


def _entry(event: Event, before: Event | None) -> Entry:
    when = moment(event.time)
    workers = f" on {event.workers} worker{'s'[: event.workers != 1]}" if event.workers else ""
    if event.kind == "start":
        if before is None and not event.step:
            return Entry("good", when, f"Started{workers}.")
        how = f"Went on from the checkpoint of step {event.step:,}" if event.step else "Began again"
        text = f"{how}{workers}."
        mood: Mood = "good"
        if before is not None and before.kind == "start":
            text, mood = f"The attempt before ended without a word. {text}", "bad"
        if event.reached:
            text += f" Steps {event.step + 1:,} to {event.reached:,} were done again."
        return Entry(mood, when, text)
    if event.kind == "end":
        return Entry("good", when, f"All {event.step:,} steps done.")
    if event.kind == "left":
        return Entry("plain", when, f"Told to stop: saved and left at step {event.step:,}.")
    if event.kind == "finding":
        return Entry("bad", when, f"Failing at step {event.step:,}: {event.text or 'not said'}.")
    if event.kind == "roll_back":
        goal = f"the checkpoint of step {event.step:,}" if event.step else "the beginning"
        return Entry("bad", when, f"Went back from step {event.reached or 0:,} to {goal}.")
    first, _, _ = (event.error or "").partition(". ")
    more = event.error or "" if len(event.error or "") > len(first) + 1 else ""
    what = "The workers were lost" if event.kind == "restart" else f"Failed at step {event.step:,}"
    return Entry("bad", when, f"{what}: {first}", more)


def moment(seconds: float) -> str:
    """A time in UTC; empty if it is none."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError, TypeError):
        return ""


def trained(run: FoundRun) -> float | None:
    """Seconds that the workers trained, without pauses; None if it is not known."""
    spent, begun, heard = 0.0, None, None
    times = [line["time"] for line in run.metrics if "time" in line]
    for event in run.events:
        if event.kind == "start":
            if begun is not None:
                spent += max(0.0, (event.reached_at or begun) - begun)
            begun = event.time
        elif begun is not None and event.kind not in ("restart", "finding"):
            spent, begun = spent + event.time - begun, None
    if begun is not None:
        heard = max([begun, *times])
        spent += heard - begun
    return spent or None


def _interval(run: FoundRun) -> float:
    """Seconds from one of the last lines of metrics to the next."""
    times = [line["time"] for line in run.metrics[-6:] if "time" in line]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def verdict(evaluation: dict[str, Any]) -> list[str]:
    """What an evaluation says of itself; of one that does not, the least, from its figures."""
    sentences = evaluation.get("verdict")
    if isinstance(sentences, list) and sentences and all(isinstance(s, str) for s in sentences):
        return sentences
    sentences = []
    distance, floor, n = (evaluation.get(k) for k in ("fd_teacher", "fd_floor", "n_teacher"))
    if isinstance(distance, float) and isinstance(floor, float) and isinstance(n, int) and floor:
        sentences.append(
            f"The student's images are {distance / floor:.2g} times as far from the teacher's as "
            f"the teacher's own from other noise (Fréchet distances {short(distance)} and "
            f"{short(floor)}, {n:,} images)."
        )
    ratio, calls = evaluation.get("speedup"), evaluation.get("nfe_teacher")
    if isinstance(ratio, float) and isinstance(calls, int):
        sentences.append(
            f"It is {ratio:.0f} times faster than its teacher's {calls} network calls."
        )
    return sentences
