"""A trial: a pair set and a run, a fault, what the printed lines say; held to the quiet run."""

import json
import os
import random
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from pyarrow.parquet import read_table
from pydantic import TypeAdapter, ValidationError

from pipeline.runs.checkpoint_store import Commit
from tests.chaos.forks import Ended, Fork, run_job
from tests.chaos.places import Place

STEPS, COUNT, GROWN = 12, 32, 48
KEEP = 2
_SETTINGS = {
    "network.channels": [8],
    "network.attention": [False],
    "network.norm_groups": 4,
    "teacher.gaussian.shape": [1, 4, 4],
    "pairs.shard_size": 16,
    "pairs.steps": 3,
    "distill.steps": STEPS,
    "distill.regression_steps": 4,
    "distill.burn_in_steps": 2,
    "distill.batch_size": 8,
    "distill.regression.batch_size": 8,
    "distill.log_every": 1,
    "distill.sample_every": 5,
    "distill.keep": KEEP,
}
_MASKS = {
    r"checkpoints/\d{7}-[0-9a-f]{8}(?=[./])": "checkpoints/COMMIT",
    r"tfevents\..*": "tfevents",
}
"""What differs between two runs that are alike: names of attempts and of their curves."""
_COMPARED = re.compile(r"pairs/|distill/state\.json|distill/student/.*\.safetensors")
"""Files that are the quiet run's bit for bit."""
ROUNDS = 8
"""How often a job may refuse and have something mended before its advice counts as endless."""


class NotSurvivedError(Exception):
    """What a trial shows to be wrong."""


@dataclass(frozen=True)
class Quiet:
    """What a run without faults leaves, of a set of `COUNT` pairs and of one of `GROWN`."""

    files: dict[str, bytes]
    grown: dict[str, bytes]
    calls: dict[tuple[str, str], dict[str, int]]
    """Kind of place and job -> how often a thread makes each system call."""


@dataclass
class Trial:
    """One set and one run.

    Args:
        place: Where they are.
        folder: For logs and temporary files; made here.
        rng: Of everything that is drawn.
        quiet: What to end like.
        count: Pairs that the settings ask for.
    """

    place: Place
    folder: Path
    rng: random.Random
    quiet: Quiet
    count: int = COUNT
    spoilt_lines: int = 0
    """Lines of metrics.jsonl that the fault itself has destroyed, or made those of other steps."""
    foreign: dict[str, bytes] = field(default_factory=dict)
    """Files of others in the place."""
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scratch = self.folder / "tmp"
        self.scratch.mkdir(parents=True)
        self.checkpoint_every = self.rng.randint(1, 3)

    @property
    def flags(self) -> list[str]:
        """Arguments of every job."""
        settings = {
            **_SETTINGS,
            "run": self.folder / "run",
            "pairs.count": self.count,
            "pairs.output": f"{self.place.uri}/pairs",
            "distill.output": f"{self.place.uri}/distill",
            "distill.checkpoint_every": self.checkpoint_every,
        }
        flags = [text for name, each in settings.items() for text in (f"--{name}", str(each))]
        return ["--config", "configs/gaussian.yaml", *self.place.flags, *flags]

    def job(self, job: str, leave_at: int = 0) -> int:
        """Run a job, such as "pairs --verify", in this process; gives its exit code.

        With `leave_at` it is told to stop after so many steps, as by `kill`.
        """

        def at_step(step: int) -> None:
            if step == leave_at:
                os.kill(os.getpid(), signal.SIGTERM)

        name, *flags = job.split()
        return run_job(name, [*self.flags, *flags], self.scratch, at_step)

    def start(self, job: str, leave_at: int = 0, **fork: Any) -> Fork:
        """Begin a job in a fork, with arguments of `Fork`."""
        return Fork(partial(self.job, job, leave_at), **fork)

    def run(self, job: str, leave_at: int = 0, **fork: Any) -> Ended:
        """Run a job to its end; it may be killed or refuse, but not fail."""
        return self.sound(job, self.start(job, leave_at, **fork).wait())

    def sound(self, job: str, ended: Ended) -> Ended:
        """Note how a job ended; an error that is not one line is a fault of ours."""
        last = ended.lines[-1] if ended.lines else ""
        self.story.append(f"{job} ended with {ended.code}: {last}")
        if ended.code not in (0, 2, 130, -9, -15) or any(
            "Traceback" in each for each in ended.lines
        ):
            self.story += ended.lines[-20:]
            raise NotSurvivedError(f"{job} ends with {ended.code}: {last}")
        return ended

    def settle(self, *jobs: str) -> None:
        """Run the jobs to their ends; whatever they refuse, do what the line says."""
        for job in jobs:
            for _ in range(ROUNDS):
                ended = self.run(job)
                if ended.code == 0:
                    break
                if ended.code == 2:
                    self.follow(job, ended.lines[-1])
            else:
                raise NotSurvivedError(f"{job} refuses {ROUNDS} times: {ended.lines[-1]}")

    def follow(self, job: str, line: str) -> None:
        """Do what a line of a job says: delete what it names, run the job that it names."""
        named = [each.rstrip("/") for each in re.findall(f"{self.place.uri}/([^\\s,;:)]+)", line)]
        named += [f"pairs/{each}" for each in re.findall(r"delete (pairs-[^\s,]+)", line)]
        deletes, runs = (
            "delete" in line or " away " in line,
            re.search(r"run (again|the same|the job|jobs/)", line),
        )
        if deletes:
            if not named:
                raise NotSurvivedError(f"says not what to delete: {line}")
            if "all of that one" in line:
                named = [named[0].rpartition("/")[0]]
            gone = [x for x in self.foreign if x == named[0] or x.startswith(f"{named[0]}/")]
            if gone:
                raise NotSurvivedError(f"would have a file of others deleted, {gone[0]}: {line}")
            self.story.append(f"delete {named[0]}")
            self.place.remove(named[0])
        if "elsewhere" in line or not (deletes or runs):
            raise NotSurvivedError(f"says no way on: {line}")
        if "jobs/pairs.py" in line and job != "pairs":
            self.settle("pairs")

    def check(self) -> None:
        """Hold what is there to the quiet run; names all that is wrong."""
        names = self.place.names()
        wrong = [*self._differing(names), *self._metrics(names), *self._foreign(names)]
        wrong += [f"left over: {mask(name)}" for name in self._left_over(names)]
        left = [each.name for each in self.scratch.iterdir() if each.name[:5] != "pymp-"]  # Ray's
        wrong += [f"left in TMPDIR: {re.sub('^tmp.*', 'tmp*', name)}" for name in left]
        if wrong:
            raise NotSurvivedError("; ".join(f"{n} x {w}" for w, n in Counter(wrong).items()))

    def _differing(self, names: list[str]) -> list[str]:
        expected = self.quiet.grown if self.count == GROWN else self.quiet.files
        compared = [name for name in expected if _COMPARED.match(name)]
        wrong = [f"missing: {name}" for name in compared if name not in names]
        there = {name: self.place.read(name) for name in compared if name in names}
        return wrong + [f"differs: {n}" for n, x in there.items() if not same(x, expected[n])]

    def _metrics(self, names: list[str]) -> list[str]:
        if "distill/metrics.jsonl" not in names:
            return ["missing: metrics.jsonl"]
        lines = self.place.read("distill/metrics.jsonl").decode(errors="replace").splitlines()
        try:
            steps = [json.loads(line)["step"] for line in lines]
        except ValueError as error:
            return [f"metrics.jsonl: {error}"]
        twice = [step for step, number in Counter(steps).items() if number > 1]
        lost = sorted(set(range(1, STEPS + 1)) - set(steps))
        found = {
            f"metrics.jsonl has twice steps {twice}": twice,
            f"metrics.jsonl lacks steps {lost}": lost,
        }
        return [told for told, steps in found.items() if len(steps) > self.spoilt_lines]

    def _foreign(self, names: list[str]) -> list[str]:
        gone = [name for name in self.foreign if name not in names]
        there = {name: data for name, data in self.foreign.items() if name in names}
        changed = [name for name, data in there.items() if self.place.read(name) != data]
        return [f"foreign file gone: {n}" for n in gone] + [f"changed: {n}" for n in changed]

    def _left_over(self, names: list[str]) -> list[str]:
        known = {mask(name) for name in (*self.quiet.files, *self.quiet.grown)}
        ours = [name for name in names if name not in self.foreign]
        left = [name for name in ours if mask(name) not in known]
        found = [re.match(r"distill/checkpoints/([^/]*)\.json$", name) for name in ours]
        commits = {each.group(1) for each in found if each}
        found = [re.match(r"distill/checkpoints/(\d+-\w+)/", name) for name in ours]
        folders = {each.group(1) for each in found if each}
        left += [f"uncommitted checkpoint {name}" for name in sorted(folders - commits)]
        runs = Counter(filter(None, map(self._fingerprint, commits)))
        return left + ["a checkpoint too many"] * (max(runs.values(), default=0) > KEEP)

    def _fingerprint(self, commit: str) -> str | None:
        """Whose a commit is; None if it cannot be read, as the faults may have damaged it."""
        data = self.place.read(f"distill/checkpoints/{commit}.json")
        try:
            return TypeAdapter(Commit).validate_json(data).fingerprint
        except ValidationError:
            return None


def same(one: bytes, other: bytes) -> bool:
    """Whether two files are alike, bit for bit; of shards and JSON what they hold."""
    if one.startswith(b"PAR1"):
        return read_table(BytesIO(one)).equals(read_table(BytesIO(other)))
    return one == other or (other.startswith(b"{") and json.loads(one) == json.loads(other))


def mask(name: str) -> str:
    """A name without what is random in it."""
    for pattern, word in _MASKS.items():
        name = re.sub(pattern, word, name)
    return name
