#!/usr/bin/env python3
"""Random faults against a pair set and a run, on a local folder and on a real S3 server.

    CHAOS_FAULTS=200 CHAOS_SEED=0 python -m tests.chaos.campaign      # all, in two lanes
    CHAOS_SEED=0 python -m tests.chaos.campaign 17 42                 # these trials of them again

Every trial begins afresh. Prints what is not survived, then a table; exit code 1 if there is any.
"""

import os
import random
import shutil
import sys
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp

import boto3

from tests.chaos import faults, ray_faults  # noqa: F401
from tests.chaos.faults import Fault
from tests.chaos.forks import count_calls, silently
from tests.chaos.places import Bucket, Folder, Place
from tests.chaos.trial import GROWN, NotSurvivedError, Quiet, Trial
from tests.cluster.radosgw import KEY, SECRET, radosgw

LANES = 2


@dataclass(frozen=True)
class Result:
    """What became of a trial; `wrong` is "" if it was survived."""

    number: int
    kind: str
    place: str
    wrong: str
    story: list[str]


@dataclass(frozen=True)
class Campaign:
    """All trials; each follows from the seed and its number."""

    seed: int
    folder: Path
    server: str
    quiet: Quiet

    def __call__(self, number: int) -> Result:
        """Do one trial."""
        fault = deck()[number % len(deck())]
        rng = random.Random(f"{self.seed} {number}")
        kind = fault.only or rng.choice(["local", "s3"])
        place = self.place(kind, f"trial-{number}")
        trial = Trial(place, self.folder / f"trial-{number}", rng, self.quiet)
        wrong = ""
        try:
            fault.act(trial)
            trial.settle(*fault.settle)
            trial.check()
        except NotSurvivedError as error:
            wrong = str(error).replace(place.uri, "")
        except Exception:
            wrong = traceback.format_exc()
        return Result(number, fault.kind, kind, wrong, trial.story)

    def place(self, kind: str, name: str) -> Place:
        """A new local folder or prefix of the bucket."""
        if kind == "s3":
            return Bucket(self.server, name)
        return Folder(str(self.folder / name / "root"))


def deck() -> list[Fault]:
    """Every fault as often as its weight, in an order that mixes them."""
    every = [fault for fault in faults.FAULTS for _ in range(fault.weight)]
    random.Random(0).shuffle(every)
    return every


def quiet_run(folder: Path, server: str) -> Quiet:
    """The run without faults, which also imports all that the jobs need into this process."""
    nothing, rng = Quiet({}, {}, {}), random.Random(0)

    def files(trial: Trial) -> dict[str, bytes]:
        return {name: trial.place.read(name) for name in trial.place.names()}

    trial = Trial(Folder(str(folder / "quiet/root")), folder / "quiet", rng, nothing)
    for job in ("pairs", "distill"):
        silently(partial(trial.job, job))
    small, calls = files(trial), {}
    trial.count = GROWN
    assert trial.run("pairs").code == 0
    for place in (Folder(str(folder / "calls/root")), Bucket(server, "calls")):
        kind = type(place).__name__
        traced = Trial(place, folder / f"calls-{kind}", rng, nothing)
        for job in ("pairs", "distill"):
            calls[kind, job] = count_calls(partial(traced.job, job), folder / "calls.log")
    return Quiet(small, files(trial), calls)


def tell(result: Result) -> Result:
    """Print what happened in a trial that is not survived."""
    if result.wrong:
        print(f"\ntrial {result.number}: {result.kind}, {result.place}\n  WRONG {result.wrong}")
        print("".join(f"  | {line}\n" for line in result.story), end="", flush=True)
    return result


def table(results: list[Result]) -> None:
    """Print how often each fault was, and was survived."""
    print(f"\n{'fault':34}{'place':8}{'count':>6}{'survived':>10}")
    count = Counter((each.kind, each.place) for each in results)
    survived = Counter((each.kind, each.place) for each in results if not each.wrong)
    for (kind, place), number in sorted(count.items()):
        print(f"{kind:34}{place:8}{number:6}{survived[kind, place]:10}")
    print(f"{'all':42}{count.total():6}{survived.total():10}")


def main() -> int:
    """Do the trials that the environment and the arguments ask for."""
    seed, faults = (int(os.environ.get(f"CHAOS_{n}", x)) for n, x in (("SEED", 0), ("FAULTS", 200)))
    numbers = [int(each) for each in sys.argv[1:]] or list(range(faults))
    print(f"seed {seed}, {len(numbers)} faults", flush=True)
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    folder = Path(mkdtemp(prefix="chaos-"))  # a TemporaryDirectory would go with the first fork
    results: list[Result] = []
    try:
        with radosgw(folder / "s3") as server:
            boto3.client("s3", "us-east-1", endpoint_url=server).create_bucket(Bucket="bucket")
            campaign = Campaign(seed, folder, server, quiet_run(folder, server))
            with ProcessPoolExecutor(LANES, get_context("fork")) as lanes:
                for result in lanes.map(campaign, numbers):
                    results.append(tell(result))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        table(results)
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main())
