#!/usr/bin/env python3
"""What the methods are worth: students of equally many updates in one table.

Takes each seed's teacher from `runs/<data>/seed-N` (trained there if it is missing), makes pairs on
Ray, and trains every method's student in this process: one by regression, DMD1's on from there,
and those of DMD2 and after from the teacher, without pairs. All are compared with the same 10,000
teacher images from the same noise, and with the real training images. Prints mean and spread over
the seeds, and writes `bench/results/<date>-methods-<data>.json` unless `--only` leaves methods out.
What is measured already is not measured again; with other settings than then it is refused.

    python bench/methods.py                            # digits and mnist, seeds 0, 1, 2
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
from functools import cache, partial
from pathlib import Path

from ablation import Scale, train
from prove import ROOT, spread, write

from pipeline.cli import load
from pipeline.cluster.pairs import make_pairs
from pipeline.config import Config
from pipeline.distill import run
from pipeline.teacher import make_teacher

DATA = ("digits", "mnist")
COLUMNS = {
    "fd_teacher": "Fréchet to the teacher",
    "fd_real": "to real images",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "pixel_fd": "in pixels",
    "cpu_seconds": "CPU seconds",
}
Figures = dict[str, float]


@dataclass(frozen=True)
class Method:
    """A method as changes of the data's recipe.

    Attributes:
        critic_steps: To one of the student.
        settings: Other changes.
        pairs: Whether it begins with the regression, and goes on with it.
        gan: Whether it has one.
    """

    critic_steps: int
    settings: tuple[str, ...] = ()
    pairs: bool = False
    gan: bool = False


FOOLING = {"digits": 0.05, "mnist": 0.01}
"""Weight of the student's GAN loss, tried on seed 0."""
SHARED = "--distill.draws=shared"
TIMES = "--distill.student.times=[80, 6, 1.2, 0.3]"
START, TEACHER = "regression only", "teacher"
METHODS = {
    "DMD1": Method(1, pairs=True),
    "DMD2 without GAN, k = 1": Method(1),
    "DMD2 without GAN, k = 5": Method(5),
    "DMD2 with GAN": Method(1, gan=True),
    "f-distill, JS": Method(1, (SHARED, "--distill.gan.divergence=js"), gan=True),
    "DMD2 without GAN, k = 5, 4 steps": Method(5, (TIMES,)),
}
GAINS = (
    ("DMD2 without GAN, k = 1", "DMD2 with GAN"),
    ("DMD2 without GAN, k = 5", "DMD2 without GAN, k = 5, 4 steps"),
)
"""Pairs of methods, without and with something, whose `fd_teacher` is compared seed by seed."""


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
    return load("methods", [*flags, *settings])[0]


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
    if method.gan:
        fooling = f"--distill.gan.student_weight={FOOLING[data]}"
        flags += ["--distill.gan.real=data", fooling, "--distill.gan.critic_weight=1.0"]
    return configure(data, seed, (*flags, *method.settings))


def teachers(scale: Callable[[], Scale]) -> Figures:
    """The teacher's own figures."""
    return scale().teacher_figures()


def measure(config: Config, scale: Callable[[], Scale]) -> Figures:
    """Train, from the start, so that the CPU time is whole; and compare."""
    shutil.rmtree(config.run, ignore_errors=True)
    begun = time.process_time()
    train(config)
    spent = time.process_time() - begun
    return scale().figures(config) | {"cpu_seconds": spent}


def once(folder: Path, find: Callable[[], Figures]) -> Figures:
    """What an earlier call found for a run, or what this one finds."""
    file = folder / "figures.json"
    if not file.is_file():
        found = find()
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found) + "\n")
    known: Figures = json.loads(file.read_text())
    return known


def table(data: str, results: dict[str, list[Figures]]) -> list[str]:
    """Markdown, one row a method: mean ± standard deviation over the seeds."""
    lines = [
        f"| {data} | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, rows in results.items():
        cells = [spread([row[each] for row in rows if each in row]) for each in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def gains(results: dict[str, list[Figures]]) -> list[str]:
    """What the second of each pair in `GAINS` gains, and the best method beside its teacher."""
    lines = [
        f"{having}: fd_teacher lower by {gain(results[without], results[having], 'fd_teacher')}"
        for without, having in GAINS
        if {without, having} <= results.keys()
    ]
    best = min(
        (name for name in results if name != TEACHER),
        key=lambda name: statistics.mean(row["fd_real"] for row in results[name]),
    )
    lower = gain(results[TEACHER], results[best], "fd_real")
    return [
        *lines,
        f"{best}, nearest to the real images: fd_real lower than the teacher's by {lower}",
    ]


def gain(before: list[Figures], after: list[Figures], figure: str) -> str:
    """How much lower a figure is, seed by seed: mean and its standard error."""
    each = [old[figure] - new[figure] for old, new in zip(before, after, strict=True)]
    error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else math.nan
    return f"{statistics.mean(each):.3g}, standard error {error:.2g}"


def compare(data: str, seeds: list[int], chosen: list[str]) -> dict[str, list[Figures]]:
    """The figures of the teacher, of regression and of the chosen methods, seed by seed."""
    results: dict[str, list[Figures]] = {name: [] for name in (TEACHER, START, *chosen)}
    for seed in seeds:
        first = starting(data, seed)
        make_teacher(first)
        make_pairs(first)
        scale = cache(partial(Scale, first))
        teacher = Path(first.run).parent / "teacher"
        results[TEACHER].append(once(teacher, partial(teachers, scale)))
        for name in (START, *chosen):
            config = first if name == START else following(data, seed, name)
            run.claim(config)
            found = once(Path(config.run), partial(measure, config, scale))
            results[name].append(found)
            print(data, seed, name, found, flush=True)
    return results


def main() -> int:
    """Train, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", default="", help="run the methods whose name holds this")
    arguments = parser.parse_args()
    chosen = [name for name in METHODS if arguments.only in name]
    for data in arguments.data:
        results = compare(data, arguments.seeds, chosen)
        print("\n".join([*table(data, results), *gains(results)]))
        if not arguments.only:
            write(f"methods-{data}", {"seeds": arguments.seeds, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
