#!/usr/bin/env python3
"""The long proofs: every recipe over several seeds, held against its bars.

Runs the four jobs for each configuration and seed (what is trained already is only evaluated),
prints one table per configuration, and writes `bench/results/<date>-<config>.json` with the
commit it was measured at. Exit code 1 if a bar is missed.

    python bench/prove.py                            # digits and mnist, seeds 0, 1, 2
    python bench/prove.py --configs digits --seeds 0
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
JOBS = ("teacher", "pairs", "distill", "evaluate")

Figures = dict[str, float]
BARS: dict[str, dict[str, Callable[[Figures], bool]]] = {
    "digits": {
        "classifier_accuracy >= 0.97": lambda f: f["classifier_accuracy"] >= 0.97,
        "teacher_accuracy >= 0.95": lambda f: f["teacher_accuracy"] >= 0.95,
        "teacher_fd_real <= 1.5": lambda f: f["teacher_fd_real"] <= 1.5,
        "fd_teacher - fd_floor <= 0.1 teacher_fd_real": lambda f: (
            f["fd_teacher"] - f["fd_floor"] <= 0.1 * f["teacher_fd_real"]
        ),
        "fd_real <= 1.15 teacher_fd_real": lambda f: f["fd_real"] <= 1.15 * f["teacher_fd_real"],
        "accuracy >= teacher_accuracy - 0.01": lambda f: (
            f["accuracy"] >= f["teacher_accuracy"] - 0.01
        ),
        "recall >= 0.93 teacher_recall": lambda f: f["recall"] >= 0.93 * f["teacher_recall"],
        "speedup >= 20": lambda f: f["speedup"] >= 20,
    },
    "mnist": {
        "classifier_accuracy >= 0.98": lambda f: f["classifier_accuracy"] >= 0.98,
        "fd_real <= 1.1 teacher_fd_real": lambda f: f["fd_real"] <= 1.1 * f["teacher_fd_real"],
        "accuracy >= teacher_accuracy - 0.01": lambda f: (
            f["accuracy"] >= f["teacher_accuracy"] - 0.01
        ),
    },
}


def measure(config: str, seed: int, extra: list[str]) -> Figures:
    """The figures of one seed, from the jobs themselves."""
    run = ROOT / "runs" / config / f"seed-{seed}"
    for job in JOBS:
        command = [sys.executable, f"jobs/{job}.py", "--config", f"configs/{config}.yaml"]
        subprocess.run(
            [*command, "--seed", str(seed), "--run", str(run), *extra], cwd=ROOT, check=True
        )
    figures = json.loads((run / "evaluation.json").read_text())
    return {name: each for name, each in figures.items() if isinstance(each, int | float)}


def table(config: str, results: list[Figures]) -> list[str]:
    """Markdown: the bars, and the figures of every seed with their mean."""
    names = [name for name, value in results[0].items() if isinstance(value, float)]
    heads = [f"seed {int(each['seed'])}" for each in results]
    lines = [
        f"| {config} | " + " | ".join([*heads, "mean"]) + " |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for name in names:
        values = [each[name] for each in results]
        cells = [f"{value:.4g}" for value in [*values, statistics.mean(values)]]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    for bar, holds in BARS[config].items():
        held = ["yes" if holds(each) else "**no**" for each in results]
        lines.append(f"| {bar} | " + " | ".join([*held, ""]) + " |")
    return lines


def main() -> int:
    """Measure, print, write; 0 if every bar holds for every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", default=list(BARS), choices=list(BARS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments, extra = parser.parse_known_args()
    missed = 0
    for config in arguments.configs:
        results = [measure(config, seed, extra) for seed in arguments.seeds]
        print("\n".join(table(config, results)))
        write(config, {"overrides": extra, "results": results})
        missed += sum(not holds(each) for holds in BARS[config].values() for each in results)
    return 1 if missed else 0


def write(name: str, content: dict[str, Any]) -> None:
    """Keep results as `bench/results/<date>-<name>.json`, with date and commit."""
    now = datetime.now(UTC)
    file = ROOT / "bench" / "results" / f"{now.date()}-{name}.json"
    file.parent.mkdir(exist_ok=True)
    stamp = {"date": now.isoformat(timespec="seconds"), "commit": commit()}
    file.write_text(json.dumps({**stamp, **content}, indent=1) + "\n")


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, the latter of several alone; empty of none."""
    if not values:
        return ""
    around = f" ± {_short(statistics.stdev(values), 2)}" if len(values) > 1 else ""
    return f"{_short(statistics.mean(values), 3)}{around}"


def _short(value: float, digits: int) -> str:
    """With so many digits, and no exponent up to a million."""
    return f"{float(f'{value:.{digits}g}'):g}"


def commit() -> str:
    """The checkout's commit, with a mark if it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
