#!/usr/bin/env python3
"""What each loss is worth on digits: the ablation table, mean and spread over seeds.

Takes each seed's teacher from `runs/digits/seed-N` (trained there if it is missing), makes pairs on
Ray, trains every variant of `configs/digits.yaml` and `configs/digits-few-pairs.yaml` in this
process, and compares 10,000 images with the teacher's from the same noise. Writes
`bench/results/<date>-ablation.json` with the commit it was measured at. Exit code 1 if, with 200
pairs, regression then DMD does not reach 0.4 times the Fréchet distance of the better of the two
regressions alone: the one DMD starts from, and one with as many student steps as both phases.

    python bench/ablation.py                          # seeds 0, 1, 2
    python bench/ablation.py --seeds 0 --only "few"
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from figures import Scale
from prove import ROOT, spread, write
from torch import Tensor

from pipeline.cli import load
from pipeline.cluster.pairs import make_pairs
from pipeline.config import Config, DistillConfig
from pipeline.diffusion import matching
from pipeline.methods.recipe import Recipe
from pipeline.runs.run import Run
from pipeline.stages.teacher import make_teacher
from pipeline.training import loop

FEW_BAR = 0.4


def first_phase(distill: DistillConfig) -> int:
    """Student steps of the regression phase."""
    return distill.regression_steps


def all_phases(distill: DistillConfig) -> int:
    """Student steps of the regression phase and of DMD together."""
    dmd = distill.steps - distill.regression_steps - distill.burn_in_steps
    return distill.regression_steps + dmd // distill.student.every


@dataclass(frozen=True)
class Variant:
    """A configuration file, what is changed in it, and what is left out.

    Attributes:
        config: Name of the file.
        overrides: Settings changed.
        only_regression: Number of steps of a run that has the regression phase alone.
        normaliser: Whether the matching gradient is normalised.
    """

    config: str
    overrides: tuple[str, ...] = ()
    only_regression: Callable[[DistillConfig], int] | None = None
    normaliser: bool = True


FEW_BEFORE = ("few pairs: regression only", "few pairs: regression only, as many steps")
FEW_AFTER = "few pairs: regression, then DMD"
VARIANTS = {
    FEW_BEFORE[0]: Variant("digits-few-pairs", only_regression=first_phase),
    FEW_BEFORE[1]: Variant("digits-few-pairs", only_regression=all_phases),
    FEW_AFTER: Variant("digits-few-pairs"),
    "many pairs: regression only": Variant("digits", only_regression=first_phase),
    "many pairs: regression, then DMD": Variant("digits"),
    "many pairs: DMD without normaliser": Variant("digits", normaliser=False),
    "no pairs: matching only": Variant(
        "digits", ("--distill.regression_steps=0", "--distill.regression.weight=0")
    ),
}


def configure(variant: Variant, seed: int, name: str) -> Config:
    """The variant's settings: the seed's teacher, a pair set by count, an output of its own."""
    home = ROOT / "runs" / "digits" / f"seed-{seed}"
    folder = ROOT / "runs" / "ablation" / f"seed-{seed}" / re.sub("[^a-zA-Z]+", "-", name)
    settings = [
        f"--config={ROOT / f'configs/{variant.config}.yaml'}",
        f"--seed={seed}",
        f"--run={folder}",
        f"--teacher.output={home / 'teacher'}",
        f"--pairs.output={folder.parent / f'pairs-{variant.config}'}",
    ]
    settings += variant.overrides
    config = load(settings)
    if variant.only_regression:
        steps = variant.only_regression(config.distill)
        alone = [f"--distill.{key}={steps}" for key in ("steps", "regression_steps")]
        config = load([*settings, "--distill.burn_in_steps=0", *alone])
    return config


def train(config: Config) -> None:
    """Train and export, unless it is done."""
    if Run(config).is_finished():
        return
    Run(config).claim()
    loop.train(config)
    Run(config).finish()


@contextmanager
def without_normaliser() -> Iterator[None]:
    """The matching gradient as fake - real alone, scaled to the same size on average."""

    def plain(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        return (fake - real) / (x0 - real).abs().mean()

    with mock.patch.object(matching, "matching_gradient", plain):
        yield


def main() -> int:
    """Train, compare, print, write; 0 if the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", default="", help="run the variants whose name holds this")
    arguments = parser.parse_args()
    chosen = {name: v for name, v in VARIANTS.items() if arguments.only in name}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for seed in arguments.seeds:
        scale = None
        for name, variant in chosen.items():
            config = configure(variant, seed, name)
            make_teacher(config)
            if Recipe.of(config.distill).needs.pairs:
                make_pairs(config)
            if variant.normaliser:
                train(config)
            else:
                with without_normaliser():
                    train(config)
            scale = scale or Scale(config)
            results[name].append({"seed": seed} | scale.figures(config))
            print(name, results[name][-1], flush=True)
    print("\n".join(table(results)))
    write("ablation", {"results": results})
    if not {FEW_AFTER, *FEW_BEFORE} <= results.keys():
        return 0
    mean = {
        name: statistics.mean(row["fd_teacher"] for row in rows) for name, rows in results.items()
    }
    ratio = mean[FEW_AFTER] / min(mean[name] for name in FEW_BEFORE)
    print(f"few pairs: DMD reaches {ratio:.2f} of regression only (bar {FEW_BAR})")
    return 0 if ratio <= FEW_BAR else 1


def table(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Markdown, one row a variant: mean ± standard deviation over the seeds."""
    lines = ["| variant | `fd_teacher` | accuracy | `pixel_fd` |", "|---|---|---|---|"]
    for name, rows in results.items():
        keys = ("fd_teacher", "accuracy", "pixel_fd")
        cells = [spread([row[key] for row in rows]) for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
