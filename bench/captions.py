#!/usr/bin/env python3
"""What DMD adds to regression on captions: drawn icons, by the jobs, three seeds.

Runs every job of a recipe for each seed; then distils and evaluates once more by regression alone,
and a student of four steps (TDM, without pairs). What is there already is not made again. Prints
a table, and what changes from regression alone, seed by seed; writes
`bench/results/<date>-<config>.json` with the commit. Exit code 1 if a bar is missed.

    python bench/captions.py                            # 50 names, then 200: 8 hours on 2 cores
    python bench/captions.py --configs icons --seeds 0
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from methods import Seeds, change
from prove import ROOT, spread, write

from pipeline.cli import load

REGRESSION, DMD, FOUR, TEACHER = "regression alone", "regression, then DMD", "four steps", "teacher"
VARIANTS = (DMD, REGRESSION, FOUR)
JUDGED = tuple(
    f"{name}_{part}" for name in ("names", "attributes") for part in ("seen", "held_out")
)
DIVERSITY = ("diversity_seen", "diversity_held_out")
COMPARED = ("fd_real", "recall", "precision")
Figures = dict[str, float]
Bar = Callable[[Figures], bool]
BARS: dict[str, Bar] = {
    "names_seen.teacher >= 0.9": lambda f: f["names_seen.teacher"] >= 0.9,
    "vae_psnr_held_out >= 24": lambda f: f["vae_psnr_held_out"] >= 24,
    "vae_psnr_held_out > pca_psnr_held_out": lambda f: (
        f["vae_psnr_held_out"] > f["pca_psnr_held_out"]
    ),
    "student within 0.05 of its teacher": lambda f: all(
        f[f"{name}.student"] >= f[f"{name}.teacher"] - 0.05 for name in JUDGED
    ),
    "fd_real <= 1.1 teacher_fd_real": lambda f: f["fd_real"] <= 1.1 * f["teacher_fd_real"],
    "speedup >= 20": lambda f: f["speedup"] >= 20,
}
"""Of the recipe's own student."""
OF_CONFIG: dict[str, dict[str, Bar]] = {
    "icons": {
        "names_held_out.teacher >= 0.8": lambda f: f["names_held_out.teacher"] >= 0.8,
        "attributes_held_out.teacher >= 0.9": lambda f: f["attributes_held_out.teacher"] >= 0.9,
    },
    "icons-200": {
        "names_held_out.teacher >= 0.75": lambda f: f["names_held_out.teacher"] >= 0.75,
    },
}


def settings(config: str, variant: str) -> list[str]:
    """What a variant changes in the recipe: four steps get as many updates as DMD."""
    distill = load([f"--config={ROOT / f'configs/{config}.yaml'}"]).distill
    if variant == REGRESSION:
        changed: dict[str, Any] = {"steps": distill.regression_steps, "burn_in_steps": 0}
    elif variant == FOUR:
        updates = distill.steps - distill.regression_steps - distill.burn_in_steps
        changed = {
            **{"regression_steps": 0, "regression.weight": 0, "student.every": 5},
            **{"student.times": [999, 749, 499, 249], "student.levels": "step"},
            "steps": distill.burn_in_steps + 5 * updates,
        }
    else:
        changed = {}
    return [f"--distill.{name}={value}" for name, value in changed.items()]


def measure(config: str, seed: int, variant: str) -> Figures:
    """The figures of one student, from the jobs themselves."""
    run = ROOT / "runs" / config / f"seed-{seed}"
    folder = run if variant == DMD else run / variant.replace(" ", "-")
    places = ["--run", str(run), "--distill.output", str(folder / "distill")]
    places += ["--evaluate.output", str(folder), "--report.output", str(folder / "report.html")]
    if not (folder / "evaluation.json").exists():
        for job in ("icons", "teacher", "pairs", "distill", "evaluate"):
            command = [sys.executable, f"jobs/{job}.py", "--config", f"configs/{config}.yaml"]
            command += ["--seed", str(seed), *places, *settings(config, variant)]
            subprocess.run(command, cwd=ROOT, check=True)
    return dict(flat(json.loads((folder / "evaluation.json").read_text())))


def flat(figures: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of `evaluation.json`, those by network as `names_seen.student`; no `metrics`."""
    for name, each in figures.items():
        if isinstance(each, dict) and name != "metrics":
            yield from flat(each, f"{before}{name}.")
        elif isinstance(each, int | float):
            yield before + name, each


def students(found: Figures) -> Figures:
    """The compared figures of the student."""
    judged = {name: found[f"{name}.student"] for name in (*JUDGED, *DIVERSITY)}
    return judged | {name: found[name] for name in COMPARED}


def teachers(found: Figures) -> Figures:
    """The same of its teacher."""
    judged = {name: found[f"{name}.teacher"] for name in (*JUDGED, *DIVERSITY)}
    return judged | {name: found[f"teacher_{name}"] for name in COMPARED}


def table(config: str, rows: dict[str, Seeds]) -> list[str]:
    """Markdown: mean ± standard deviation over the seeds, a row each; changes beneath."""
    names = (*JUDGED, *DIVERSITY, *COMPARED)
    lines = [f"| {config} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row, seeds in rows.items():
        cells = [spread([each[name] for each in seeds.values()]) for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    for row in rows.keys() - {TEACHER, REGRESSION}:
        changes = (f"{name} {change(rows[REGRESSION], rows[row], name)}" for name in names)
        lines.append(f"{row} beside {REGRESSION}: {', '.join(changes)}")
    return lines


def prove(config: str, seeds: list[int]) -> bool:
    """Measure, print, write; whether every bar holds for every seed."""
    rows: dict[str, Seeds] = {row: {} for row in (TEACHER, *VARIANTS)}
    held = True
    for seed in seeds:
        for variant in VARIANTS:
            found = measure(config, seed, variant)
            rows[variant][str(seed)] = students(found)
            if variant == DMD:
                rows[TEACHER][str(seed)] = teachers(found)
                for bar, holds in (BARS | OF_CONFIG[config]).items():
                    held &= holds(found)
                    print(f"{config} seed {seed}: {bar}: {'yes' if holds(found) else 'NO'}")
    print("\n".join(table(config, rows)))
    write(config, {"results": rows})
    return held


def main() -> int:
    """Measure each recipe; 0 if every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", choices=list(OF_CONFIG), default=list(OF_CONFIG))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    return 0 if all([prove(config, arguments.seeds) for config in arguments.configs]) else 1


if __name__ == "__main__":
    sys.exit(main())
