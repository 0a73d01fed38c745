#!/usr/bin/env python3
"""What the methods are worth: students of equally many updates in one table.

Takes each seed's teacher from `runs/<data>/seed-N` (trained there if it is missing), makes pairs on
Ray, and trains every method's student in this process: one by regression, DMD1's on from there,
and those of DMD2 and after from the teacher, without pairs. All are compared with 10,000 images of
the teacher's ODE from the same noise, with 10,000 of its SDE, to whose distribution matching leads,
and with the real training images. Every figure is kept in `bench/results/methods-<data>.json`, with
its date, commit and settings, and is measured again only where settings have changed or a column is
new. Prints all that is known: mean and spread over the seeds.

    python bench/methods.py                            # all three data sets, seeds 0, 1, 2
    python bench/methods.py --data mnist --seeds 0 --only GAN
"""

import argparse
import hashlib
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from ablation import train
from figures import Scale
from prove import ROOT, commit, spread

from pipeline.cli import load
from pipeline.cluster.pairs import make_pairs
from pipeline.config import Config
from pipeline.stages.teacher import make_teacher

DATA = ("digits", "mnist", "fashion-mnist")
COLUMNS = {
    "fd_teacher": "Fréchet to the teacher's ODE",
    "fd_stochastic": "to its SDE",
    "fd_real": "to real images",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "pixel_fd": "in pixels",
    "cpu_seconds": "CPU seconds",
}
FIGURES = COLUMNS.keys() - {"cpu_seconds"}
"""Of every row; the teacher's have no time."""
JUDGED = ("fd_teacher", "fd_stochastic", "fd_real", "recall")
Figures = dict[str, float]
Seeds = dict[str, dict[str, Any]]
Rows = dict[str, Seeds]


@dataclass(frozen=True)
class Method:
    """A method as changes of the data's recipe.

    Attributes:
        critic_steps: To one of the student.
        settings: Other changes.
        pairs: Whether it begins with the regression, and goes on with it.
        gan: Weight of its GAN beside `FOOLING`; 0: it has none.
        noisy: Whether it needs noise levels above those of the recipe, for its first step.
    """

    critic_steps: int
    settings: tuple[str, ...] = ()
    pairs: bool = False
    gan: float = 0.0
    noisy: bool = False


FOOLING = {"digits": 0.05, "mnist": 0.01, "fashion-mnist": 0.006}
"""Weight of the student's GAN loss, tried on seed 0. Fashion-MNIST's is not: the gradient grows
with the root of the number of pixels, so it is MNIST's divided by that of 28^2 / 16^2."""
SHARED = "--distill.draws=shared"
SIDA = ("--distill.matching.loss=sid-1", "--distill.gan.heads=mean", SHARED)
TIMES = "--distill.student.times=[80, 6, 1.2, 0.3]"
FOLLOWING = "--distill.terms={diversity: {}}"
DIVERSE = ("--distill.student.renoise=false", FOLLOWING)
OWN_LEVELS = "--distill.student.levels=step"
START, TEACHER, SDE = "regression only", "teacher", "teacher by its SDE"
METHODS = {
    "DMD1": Method(1, pairs=True),
    "DMD2 without GAN, k = 1": Method(1),
    "DMD2 without GAN, k = 5": Method(5),
    "DMD2 without GAN, k = 10": Method(10),
    "DMD2 with GAN, k = 1": Method(1, gan=1.0),
    "DMD2 with GAN, k = 5": Method(5, gan=1.0),
    "DMD2 with GAN, k = 5, a fifth of its weight": Method(5, gan=0.2),
    "DMD2 with GAN, k = 10": Method(10, gan=1.0),
    "f-distill, JS": Method(1, (SHARED, "--distill.gan.divergence=js"), gan=1.0),
    "SiD's loss, k = 5": Method(5, ("--distill.matching.loss=sid",)),
    "SiDA, k = 5": Method(5, SIDA, gan=1.0),
    "Uni-Instruct, Jeffreys, k = 5": Method(
        5, (*SIDA, "--distill.gan.divergence=jeffreys"), gan=1.0
    ),
    "IDA, k = 5": Method(5, ("--distill.critic.ida=0.98",)),
    "SGMD, k = 1": Method(1, ("--distill.matching.loss=sgmd",)),
    "DMD2 without GAN, k = 5, 4 steps": Method(5, (TIMES,)),
    "DP-DMD, k = 5, 4 steps": Method(5, (TIMES, *DIVERSE)),
    "ISG, k = 5, 4 steps": Method(5, (TIMES, "--distill.terms={isg: {}}")),
    "TDM, k = 5, 4 steps": Method(5, (TIMES, OWN_LEVELS), noisy=True),
    "TDM with DP-DMD, k = 5, 4 steps": Method(5, (TIMES, OWN_LEVELS, FOLLOWING), noisy=True),
    "TDM with DP-DMD, a fifth of its weight": Method(
        5, (TIMES, OWN_LEVELS, "--distill.terms={diversity: {weight: 0.01}}"), noisy=True
    ),
    "TDM, k = 10, 4 steps": Method(10, (TIMES, OWN_LEVELS), noisy=True),
    "TDM with GAN, k = 5, 4 steps": Method(5, (TIMES, OWN_LEVELS), gan=1.0, noisy=True),
}
GAINS = (
    ("DMD2 without GAN, k = 1", "DMD2 with GAN, k = 1"),
    ("DMD2 without GAN, k = 5", "DMD2 with GAN, k = 5"),
    ("DMD2 without GAN, k = 5", "DMD2 with GAN, k = 5, a fifth of its weight"),
    ("DMD2 without GAN, k = 10", "DMD2 with GAN, k = 10"),
    ("DMD2 without GAN, k = 5", "DMD2 without GAN, k = 5, 4 steps"),
    ("DMD2 without GAN, k = 5", "TDM, k = 5, 4 steps"),
    ("DMD2 without GAN, k = 5", "TDM with DP-DMD, a fifth of its weight"),
    *(
        ("DMD2 without GAN, k = 5", name)
        for name in METHODS
        if name.startswith(("SiD", "Uni-Instruct", "DP-DMD", "ISG"))
    ),
)
"""Pairs of methods, without and with something, compared seed by seed."""


def configure(data: str, seed: int, settings: tuple[str, ...] = ()) -> Config:
    """A run of its own on the seed's teacher and pairs."""
    home = ROOT / "runs" / data / f"seed-{seed}"
    folder = ROOT / "runs" / "methods" / data / f"seed-{seed}"
    flags = [
        f"--config={ROOT / f'configs/{data}.yaml'}",
        f"--seed={seed}",
        f"--run={folder / hashlib.sha256(repr(settings).encode()).hexdigest()[:12]}",
        f"--teacher.output={home / 'teacher'}",
        f"--pairs.output={folder / 'pairs'}",
    ]
    return load([*flags, *settings])


def starting(data: str, seed: int) -> Config:
    """The student by regression alone."""
    steps = configure(data, seed).distill.regression_steps
    return configure(data, seed, (f"--distill.steps={steps}", "--distill.burn_in_steps=0"))


def following(data: str, seed: int, name: str) -> Config:
    """A method's student: as many updates as the recipe has in its first and third phase."""
    method, recipe = METHODS[name], configure(data, seed).distill
    third = recipe.steps - recipe.regression_steps - recipe.burn_in_steps
    updates = third // recipe.student.every
    flags = ["--distill.regression_steps=0", f"--distill.student.every={method.critic_steps}"]
    if method.pairs:
        flags.append(f"--distill.start_from={starting(data, seed).distill.output}")
    else:
        flags.append("--distill.regression.weight=0")
        updates += recipe.regression_steps
    flags.append(f"--distill.steps={recipe.burn_in_steps + updates * method.critic_steps}")
    if method.noisy and data != "digits":
        flags += ["--distill.matching.range=[0.1, 0.75]", "--distill.critic.range=[0.05, 0.8]"]
    if method.gan:
        fooling = f"--distill.gan.student_weight={method.gan * FOOLING[data]:g}"
        flags += ["--distill.gan.real=data", fooling, "--distill.gan.critic_weight=1.0"]
    return configure(data, seed, (*flags, *method.settings))


@dataclass(frozen=True)
class Book:
    """What has been measured on one data set, kept row by row.

    Args:
        data: Its name.
    """

    data: str

    @property
    def file(self) -> Path:
        """Rows by method and seed; each with its date, commit and settings."""
        return ROOT / "bench" / "results" / f"methods-{self.data}.json"

    def rows(self) -> Rows:
        """The rows of the methods that there are, in the order of the table."""
        found = self._read()
        return {name: found[name] for name in (TEACHER, SDE, START, *METHODS) if name in found}

    def _read(self) -> Rows:
        found: Rows = json.loads(self.file.read_text()) if self.file.is_file() else {}
        return found

    def once(self, name: str, config: Config, find: Callable[[], Figures]) -> None:
        """Find the figures of a method and seed, unless they are known for these settings."""
        seed, settings = str(config.seed), mark(config)
        row = self.rows().get(name, {}).get(seed, {})
        if row.get("settings") == settings and row.keys() >= FIGURES:
            return
        figures = find()
        stamp = {"date": str(datetime.now(UTC).date()), "commit": commit(), "settings": settings}
        rows = self._read()  # others may have been measured meanwhile
        rows.setdefault(name, {})[seed] = {**stamp, **figures}
        self.file.write_text(json.dumps(rows, indent=1) + "\n")
        print(self.data, seed, name, figures, flush=True)


def mark(config: Config) -> str:
    """Short hash of the settings that define a row, wherever its folders are."""
    branches = ("data", "network", "teacher", "pairs", "distill")
    places = {"output", "start_from"}
    settings = {
        name: getattr(config, name).model_dump(mode="json", exclude_defaults=True, exclude=places)
        for name in branches
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def prepare(first: Config) -> Scale:
    """The teacher and its pairs, and what students are compared with."""
    make_teacher(first)
    make_pairs(first)
    return Scale(first)


def measure(config: Config, first: Config, scale: Callable[[], Scale]) -> Figures:
    """Train, from the start, so that the CPU time is whole; and compare."""
    compared = scale()
    if config.distill.start_from:
        train(first)
    shutil.rmtree(config.run, ignore_errors=True)
    begun = time.process_time()
    train(config)
    spent = time.process_time() - begun
    return compared.figures(config) | {"cpu_seconds": spent}


def compare(book: Book, seed: int, chosen: list[str]) -> None:
    """Measure the teacher, regression and the chosen methods, where that is not done."""
    first = starting(book.data, seed)
    scale = cache(partial(prepare, first))
    book.once(TEACHER, first, lambda: scale().teacher_figures())
    book.once(SDE, first, lambda: scale().stochastic_figures())
    for name in (START, *chosen):
        config = first if name == START else following(book.data, seed, name)
        book.once(name, config, partial(measure, config, first, scale))


def table(book: Book) -> list[str]:
    """Markdown, one row a method: mean ± standard deviation over the seeds."""
    lines = [
        f"| {book.data} | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    rows = book.rows()
    for name, seeds in rows.items():
        cells = [spread([row[each] for row in seeds.values() if each in row]) for each in COLUMNS]
        some = "" if seeds.keys() == rows[TEACHER].keys() else f" (seeds {', '.join(seeds)})"
        lines.append(f"| {name}{some} | {' | '.join(cells)} |")
    return lines


def gains(book: Book) -> list[str]:
    """What the second of each pair in `GAINS` changes, and the best student beside its teacher."""
    rows = book.rows()
    best = min(
        rows.keys() - {TEACHER, SDE},
        key=lambda name: statistics.mean(row["fd_real"] for row in rows[name].values()),
    )
    pairs = [each for each in (*GAINS, (TEACHER, best)) if rows.keys() >= {*each}]
    return [
        f"{after} beside {before}: "
        + ", ".join(f"{each} {change(rows[before], rows[after], each)}" for each in JUDGED)
        for before, after in pairs
    ]


def change(before: Seeds, after: Seeds, figure: str) -> str:
    """By how much a figure is more, over the seeds that have both: mean and its standard error."""
    each = [
        row[figure] - before[seed][figure]
        for seed, row in after.items()
        if figure in row and figure in before.get(seed, {})
    ]
    if not each:
        return "not measured"
    error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else math.nan
    return f"{statistics.fmean(each):+.3g} ± {error:.2g} ({len(each)} seeds)"


def main() -> int:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", default="", help="run the methods whose name holds this")
    arguments = parser.parse_args()
    chosen = [name for name in METHODS if arguments.only in name]
    for data in arguments.data:
        book = Book(data)
        for seed in arguments.seeds:
            compare(book, seed, chosen)
        print("\n".join([*table(book), *gains(book)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
