#!/usr/bin/env python3
"""Keep the curves of a healthy run, to be drawn behind those of runs of its recipe.

Reads the folders of finished runs and writes pipeline/report/reference/<recipe>.json: every figure
that a report draws, to three digits, and the command that trained the run.

    python bench/detectors.py --parts healthy --seeds 0 --only whole
    python bench/reference.py runs/detectors/digits/seed-0/whole-digits
"""

import argparse
import json
import sys
from pathlib import Path

from prove import ROOT

sys.path.insert(0, str(ROOT))

from pipeline.config import S3Config
from pipeline.report.curves import LABELS
from pipeline.report.reference import FOLDER, Reference, alike
from pipeline.report.source import find, read_run

SPEED = {"samples_per_second", "tflops", "mfu"}
"""Figures of the machine, not of the run."""


def keep(folder: str, recipe: str) -> Path:
    """Write the curves of a run as those of a recipe; the file."""
    run = read_run(find(folder, S3Config()), S3Config())
    known = {name for line in run.metrics for name in line}
    figures = {
        name: [float(f"{line[name]:.3g}") if name in line else None for line in run.metrics]
        for name in LABELS
        if name in known - SPEED
    }
    found = Reference(
        recipe=recipe,
        made=f"jobs/distill.py --config configs/{recipe}.yaml",
        alike=alike(run.settings or {}),
        steps=[int(line["step"]) for line in run.metrics],
        figures=figures,
    )
    file = FOLDER / f"{recipe}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(vars(found)) + "\n")
    return file


def main() -> int:
    """Keep those of all runs that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="+", help="folder of a finished run")
    parser.add_argument("--recipe", required=True, help="its name in configs/")
    asked = parser.parse_args()
    for folder in asked.run:
        print(keep(folder, asked.recipe))
    return 0


if __name__ == "__main__":
    sys.exit(main())
