"""The faults: each a function that brings a set and a run into trouble.

One more is a function with `@fault`, which gets a trial whose set and run are not begun. It runs
jobs, spoils what they do or have left, and returns; then the harness runs the jobs to their ends
(`Trial.settle`) and holds what is there to the quiet run (`Trial.check`).
"""

import math
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tests.chaos.forks import SYSTEM_CALLS
from tests.chaos.places import Bucket
from tests.chaos.proxy import lying_proxy
from tests.chaos.trial import COUNT, GROWN, STEPS, Trial
from tests.cluster.faulty_proxy import faulty_proxy


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        kind: Its name.
        act: What it does.
        weight: How often it is drawn.
        only: "local" or "s3" where it is of one kind of place.
        settle: The jobs that are run again after it.
    """

    kind: str
    act: Callable[[Trial], None]
    weight: int
    only: str
    settle: tuple[str, ...]


BOTH = ("pairs", "distill")
FAULTS: list[Fault] = []


def fault(
    kind: str, weight: int = 1, only: str = "", settle: tuple[str, ...] = ("distill",)
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Register a fault: how often it is drawn, its place, the jobs that are run again after it."""

    def register(act: Callable[[Trial], None]) -> Callable[[Trial], None]:
        FAULTS.append(Fault(kind, act, weight, only, settle))
        return act

    return register


def begin(trial: Trial) -> None:
    """Make the set, and do a random number of steps."""
    trial.run("pairs")
    trial.run("distill", leave_at=trial.rng.randrange(1, STEPS))


def strike(
    trial: Trial, job: str, what: str, among: Collection[str] = SYSTEM_CALLS, part: int = 1
) -> None:
    """Run a job in which something befalls the k-th system call of a kind.

    It is one of the calls that the whole job makes, or of this part of them: one that goes on makes
    fewer, and would not come to the last ones.
    """
    calls = trial.quiet.calls[type(trial.place).__name__, job]
    call = trial.rng.choice([each for each in among if each in calls])
    number = trial.rng.randint(1, -(-calls[call] // part))
    inject = f"inject={call}:{what}:when={number}"
    trial.story.append(f"{job}: {inject}")
    trial.run(job, trace=("-e", f"trace={call}", "-e", inject, "-o", "/dev/null"))


@fault("killed pairs job", weight=4, settle=BOTH)
def kill_pairs(trial: Trial) -> None:
    strike(trial, "pairs", "signal=KILL")


@fault("killed distill job", weight=8)
def kill_distill(trial: Trial) -> None:
    trial.run("pairs")
    strike(trial, "distill", "signal=KILL")


@fault("killed when it goes on", weight=6)
def kill_resumed(trial: Trial) -> None:
    begin(trial)
    strike(trial, "distill", "signal=KILL", part=3)


@fault("full disk", weight=4, settle=BOTH)
def full_disk(trial: Trial) -> None:
    """Files of more than so many bytes cannot be written for a while."""
    for job in ("pairs", "distill"):
        size = int(math.exp(trial.rng.uniform(math.log(50), math.log(60_000))))
        trial.story.append(f"{job}: files of at most {size} bytes")
        if trial.run(job, file_size=size).code:
            return


@fault("disk error", weight=2)
def disk_error(trial: Trial) -> None:
    begin(trial)
    strike(trial, "distill", "error=EIO", ("fsync", "link", "rename", "mkdir"), part=3)


def flip(trial: Trial, pattern: str) -> str:
    """Flip one bit of a random object whose name fits; returns the name."""
    name = trial.rng.choice([each for each in trial.place.names() if re.fullmatch(pattern, each)])
    data = bytearray(trial.place.read(name))
    place, bit = trial.rng.randrange(len(data)), trial.rng.randrange(8)
    data[place] ^= 1 << bit
    trial.place.write(name, bytes(data))
    trial.story.append(f"bit {bit} of byte {place} of {name} is flipped")
    return name


@fault("bit of a shard", weight=2, settle=("distill", "pairs --verify"))
def flip_shard(trial: Trial) -> None:
    begin(trial)
    flip(trial, "pairs/pairs-.*")


@fault("bit of a shard, set not closed", settle=("pairs", "pairs --verify", "distill"))
def flip_early_shard(trial: Trial) -> None:
    trial.run("pairs")
    trial.place.remove(f"pairs/manifest-{COUNT}.json")
    flip(trial, "pairs/pairs-.*")


@fault("bit of a manifest", weight=2)
def flip_manifest(trial: Trial) -> None:
    begin(trial)
    flip(trial, "pairs/manifest-.*")


@fault("bit of a plan, set not closed", settle=BOTH)
def flip_plan(trial: Trial) -> None:
    begin(trial)
    trial.place.remove(f"pairs/manifest-{COUNT}.json")
    flip(trial, "pairs/plan.json")


@fault("bit of a checkpoint", weight=2)
def flip_checkpoint(trial: Trial) -> None:
    begin(trial)
    flip(trial, r"distill/checkpoints/.*\.safetensors")


@fault("bit of a commit", weight=2)
def flip_commit(trial: Trial) -> None:
    begin(trial)
    flip(trial, r"distill/checkpoints/[^/]*\.json")


@fault("bit of metrics.jsonl")
def flip_metrics(trial: Trial) -> None:
    begin(trial)
    flip(trial, "distill/metrics.jsonl")
    trial.spoilt_lines = 2  # a line's end makes one of two


@fault("bit of events.jsonl")
def flip_events(trial: Trial) -> None:
    begin(trial)
    flip(trial, "distill/events.jsonl")


@fault("bit of run.json")
def flip_run(trial: Trial) -> None:
    begin(trial)
    flip(trial, "distill/run.json")


@fault("cut file", weight=2, settle=BOTH)
def cut(trial: Trial) -> None:
    """Of any file the end is lost, or all of it."""
    begin(trial)
    name = trial.rng.choice([each for each in trial.place.names() if "tensorboard" not in each])
    data = trial.place.read(name)
    kept = trial.rng.choice([0, trial.rng.randrange(len(data))])
    trial.place.write(name, data[:kept])
    trial.spoilt_lines = STEPS * name.endswith("metrics.jsonl")
    trial.story.append(f"{name} has {kept} of {len(data)} bytes")


_FOREIGN = [
    *("notes.txt", ".hidden", ".notes.tmp", "0-notes/today.txt", "manifest-old.json"),
    *("pairs-old.parquet", "pairs-notes.txt", "plan.json.bak", "run.json.old", "notes.json"),
    *("0000004-backup/weights.safetensors", "0000004-backup.json", "best/weights.safetensors"),
    *("0000002-1f2e3d4c/notes.txt", "step-0000003.png", "0000003-mine.score", "stop.txt"),
]
_WHERE = ["", "pairs/", "distill/", "distill/checkpoints/", "distill/samples/"]


@fault("files of others", weight=4, settle=BOTH)
def foreign(trial: Trial) -> None:
    """Half of them are there before, half come after some steps."""
    drop(trial)
    begin(trial)
    drop(trial)


def drop(trial: Trial) -> None:
    """Put files of others everywhere."""
    for name in trial.rng.sample(_FOREIGN, 6):
        name = trial.rng.choice(_WHERE) + name
        if name not in trial.place.names():
            trial.foreign[name] = trial.rng.randbytes(20)
            trial.place.write(name, trial.foreign[name])
            trial.story.append(f"put {name}")


@fault("set grown while the run goes on", weight=2)
def grow(trial: Trial) -> None:
    begin(trial)
    trial.count = GROWN
    trial.run("pairs")


@fault("two drivers at once", weight=3, settle=BOTH)
def two_drivers(trial: Trial) -> None:
    for job in ("pairs", "distill"):
        one = trial.start(job)
        time.sleep(trial.rng.uniform(0, 1 if job == "distill" else 0.1))
        other = trial.start(job)
        for each in (one, other):
            trial.sound(job, each.wait())


@fault("stopped twice")
def stop(trial: Trial) -> None:
    begin(trial)
    trial.run("distill", leave_at=2)


def through(trial: Trial, url: str) -> None:
    """Begin the jobs with the store at another address."""
    place = trial.place
    assert isinstance(place, Bucket)
    trial.place = Bucket(place.server, place.prefix, url)
    for job in ("pairs", "distill"):
        trial.run(job)
    trial.place = place


@fault("bad network", weight=2, only="s3", settle=BOTH)
def bad_network(trial: Trial) -> None:
    seed = trial.rng.randrange(2**32)
    with faulty_proxy(trial.place.server, share=0.05, stall=0.2, seed=seed) as (url, _):
        through(trial, url)


@fault("answers cut or out of date", weight=4, only="s3", settle=BOTH)
def lies(trial: Trial) -> None:
    with lying_proxy(trial.place.server, 0.1, trial.rng.randrange(2**32)) as url:
        through(trial, url)
