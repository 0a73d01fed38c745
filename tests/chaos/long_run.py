#!/usr/bin/env python3
"""A long run with a checkpoint at every step and 300 resumes: what it holds stays flat.

    python -m tests.chaos.long_run

Four parts: many steps without a stop, resumes within one process, resumes each in a fresh one, and
Ray's driver and worker. Prints a table of descriptors, memory and files; exit code 1 if any grows.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import mkdtemp

import psutil

from tests.chaos.forks import Fork, run_job, silently
from tests.chaos.ray_faults import ONE_WORKER, workers
from tests.cluster.job import Job

STEPS, RAY_STEPS = 2000, 400
ALONE = 700
"""Steps of the first part; the others are shared among the resumes."""
RESUMES = 150
"""Of each kind."""
BAR = 1.05
"""Mean of the last tenth of the values, at most, over that of the second tenth."""
SETTINGS = [
    *("--config", "configs/gaussian.yaml", "--network.channels", "[8]"),
    *("--network.attention", "[false]", "--network.norm_groups", "4"),
    *("--teacher.gaussian.shape", "[1, 4, 4]", "--pairs.count", "32", "--pairs.shard_size", "16"),
    *("--pairs.steps", "3", "--distill.regression_steps", "4", "--distill.burn_in_steps", "2"),
    *("--distill.batch_size", "8", "--distill.regression.batch_size", "8"),
    *("--distill.log_every", "1", "--distill.sample_every", "100000"),
    *("--distill.checkpoint_every", "1"),
]


class Figures:
    """What processes hold over time, in a file with a line for each look."""

    def __init__(self, file: Path, run: Path) -> None:
        self._file, self._run = file, run

    def look(self, process: psutil.Process) -> None:
        """Note a process, and how many files there are.

        Not TensorBoard's, one of which comes at a start, nor the student's, which come at the end.
        """
        others = {"tensorboard", "student"}
        tree = list(os.walk(self._run))  # which may change meanwhile
        ours = [(names, more) for folder, names, more in tree if not others & {*Path(folder).parts}]
        count = sum(len(names) + len(more) for names, more in ours)
        scratch = list(Path(os.environ["TMPDIR"]).iterdir())
        row = process.num_fds(), process.memory_info().rss, count + len(scratch)
        with self._file.open("a") as lines:
            lines.write(" ".join(map(str, row)) + "\n")

    def growth(self) -> Iterator[tuple[str, float, float]]:
        """Name, mean of the second tenth and of the last."""
        rows = [
            [int(each) for each in line.split()] for line in self._file.read_text().splitlines()
        ]
        tenth = len(rows) // 10
        for name, values in zip(
            ("descriptors", "memory", "files"), zip(*rows, strict=True), strict=True
        ):
            yield name, mean(values[tenth : 2 * tenth]), mean(values[-tenth:])


class LongRun:
    """One run on a local folder, and what it holds."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.scratch = folder, folder / "tmp"
        self.scratch.mkdir(parents=True)
        self.flags = [*SETTINGS, "--run", str(folder / "run"), "--distill.steps", str(steps)]

    def figures(self, part: str) -> Figures:
        return Figures(self.folder / part, self.folder / "run")

    def make_pairs(self) -> None:
        silently(partial(run_job, "pairs", self.flags, self.scratch))

    def go_on(self, steps: int, figures: Figures | None = None) -> int:
        """Do so many steps in this process, or those that are left; look after each of them."""

        def at_step(step: int) -> None:
            if figures is not None:
                figures.look(psutil.Process())
            if step == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        code = run_job("distill", self.flags, self.scratch, at_step)
        assert code in (0, 130)
        return 0

    def resume(self, times: range, figures: Figures) -> int:
        """Go on as often, look after each time."""
        for number in times:
            self.go_on(4 + (number % 3 == 0))
            figures.look(psutil.Process())
        return 0


def parts(folder: Path) -> Iterator[tuple[str, Figures]]:
    """Each part, done: its name and figures."""
    run = LongRun(folder / "long", STEPS)
    run.make_pairs()
    warm = LongRun(folder / "warm", 8)
    warm.make_pairs()
    silently(partial(run_job, "distill", warm.flags, warm.scratch))

    def done(function: Callable[[], int]) -> None:
        ended = Fork(function, seconds=1800).wait()
        assert ended.code == 0, ended.lines[-5:]

    figures = run.figures("steps")
    done(partial(run.go_on, ALONE, figures))
    yield f"{ALONE} steps", figures
    figures = run.figures("within")
    done(partial(run.resume, range(RESUMES), figures))
    yield f"{RESUMES} resumes in one process", figures
    figures = run.figures("fresh")
    for number in range(RESUMES):
        done(partial(run.resume, range(number, number + 1), figures))
    yield f"{RESUMES} resumes in fresh ones", figures
    assert (run.folder / "run/distill/state.json").exists(), "all steps are done"
    yield from ray_parts(folder)


def ray_parts(folder: Path) -> Iterator[tuple[str, Figures]]:
    """The driver and the worker of the real job."""
    run = LongRun(folder / "ray", RAY_STEPS)
    run.make_pairs()
    env = {"TMPDIR": str(run.scratch), "RAY_TMPDIR": str(folder / "r")}
    job = Job(folder / "ray.log", ["jobs/distill.py", *run.flags, *ONE_WORKER], env)
    driver, both = psutil.Process(job.process.pid), (run.figures("driver"), run.figures("worker"))
    log = folder / "ray/run/distill/metrics.jsonl"
    while job.process.poll() is None:
        begun = log.exists() and log.read_text().count("\n") > 20
        found = workers(job) if begun else []
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            for process, figures in zip((driver, *found) if found else (), both, strict=False):
                figures.look(process)
        time.sleep(0.2)
    job.finish()
    yield from zip(("Ray's driver", "Ray's worker"), both, strict=True)


def main() -> int:
    """Do all parts and print the table."""
    folder, flat, begin = Path(mkdtemp(prefix="long-")), True, time.monotonic()
    print(f"{'part':34}{'held':14}{'2nd tenth':>14}{'last tenth':>14}{'ratio':>8}")
    for part, figures in parts(folder):
        for name, early, late in figures.growth():
            flat &= late <= BAR * early
            print(f"{part:34}{name:14}{early:14,.1f}{late:14,.1f}{late / early:8.3f}", flush=True)
    print(f"{time.monotonic() - begin:.0f} seconds; at most {BAR}")
    shutil.rmtree(folder)
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
