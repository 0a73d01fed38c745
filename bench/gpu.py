#!/usr/bin/env python3
"""What a session with one GPU measures of us, in at most 12 minutes, against its bars.

    python bench/gpu.py [--only TEXT] [--minutes 12] [--json FILE] [--tiny]

Networks have the shapes of released models (`gpu_models.py`), random weights, and noise for stored
conditions and real latents, which change neither time nor memory. A case is a recipe of `configs/`
as one worker runs a lane of it, or so many images: after one step to warm up a turn of the student
and its critic's steps. Or it makes a shard of so many pairs, after one to warm up, in `STEPS` steps
of the recipe's solver and in a batch that memory holds. Or all jobs run on the digits.

Cases run in the order of their weight. One that fails is a row with its reason; one for which no
time is left does not run, and its row says so. The exit code is 0 if all bars hold, and no case
failed. `--tiny` runs every case on tiny networks of the same classes and holds no bars, to see on a
CPU that the script runs.

images/s    through the whole turn, or of pairs
s/step      of the critic's steps, the student's among them
mfu         share of what the GPU can do at most, as the log has it
GiB         the most that PyTorch held in a turn, the first one too
foreseen    what `jobs/doctor.py` counts; PyTorch's workspace and kernels come on top
start       GiB at most before the first step
times       as many images/s as the case it is held against
reserve     seconds at the start, once, for the memory that checkpoints are copied to
copy        seconds that a turn takes longer beside the first checkpoint's copy
again       the same for a later one; stall: in steps
batch       pairs that were solved at once
took        seconds of the case, all in all
missed      bars of `prove.py` that the digits miss
"""

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_measures import (
    CARD,
    GPU,
    HOLDS,
    NOT_MEASURED,
    Bar,
    Case,
    Figures,
    make_pairs,
    run_jobs,
    train,
)

from pipeline.utils.errors import problem_line

COLUMNS = ("images/s", "s/step", "mfu", "GiB", "foreseen", "start", "times", "stall", "took")
WIDTH = 38
EVERY_STEP = ("distill.student.every=1",)
SECOND = (
    *("distill.gan.real=encoded", "distill.gan.student_weight=1e-3"),
    "distill.gan.critic_weight=1e-2",
)
LANE = "sd15-dmd2, a lane"
MFU, FASTER = Bar("mfu", 0.35), (Bar("times", 6),)
FIT = (Bar("GiB", 76, most=True), Bar("start", 76, most=True))


def lane(seconds: int, *settings: str, images: int = 32, **more: Any) -> Case:
    """Of Stable Diffusion 1.5."""
    return Case(train, seconds, "sd15-dmd2", "sd15", images, settings, **more)


def one_step(model: str, seconds: int, recipe: str, *settings: str, **more: Any) -> Case:
    """An image or video, of which student and critic both learn."""
    return Case(train, seconds, recipe, model, 1, (*EVERY_STEP, *settings), **more)


def pairs_in(precision: str, model: str, images: int, seconds: int, **more: Any) -> Case:
    """As many pairs of a model."""
    settings = (f"pairs.precision={precision}",)
    return Case(make_pairs, seconds, model, model, images, settings, **more)


CASES = {
    LANE: Case(
        partial(train, checkpoints=True),
        60,
        "sd15-dmd2",
        "sd15",
        32,
        bars=(Bar("images/s", 2.2 * 42.4), MFU, Bar("stall", 1, most=True)),
    ),
    "sd15-dmd2, second stage (GAN), a lane": lane(30, *SECOND, bars=(MFU,)),
    "sd15-dmd2, 8 images": lane(20, images=8, against=LANE, bars=(Bar("times", 0.8),)),
    "DiT-XL/2, 128 images": Case(train, 40, "sd15-dmd2", "dit", 128, bars=(Bar("mfu", 0.40),)),
    "qwen-image-4-step, 1024x1024": one_step("qwen-image", 60, "qwen-image-4-step", bars=FIT),
    "sd15, pairs in fp32": pairs_in("fp32", "sd15", 32, 60),
    "sd15, pairs in bf16": pairs_in(
        "bf16", "sd15", 32, 15, against="sd15, pairs in fp32", bars=FASTER
    ),
    "digits, all jobs": Case(run_jobs, 180, "digits", bars=(Bar("missed", 0, most=True),)),
    "sdxl-lora, a lane": Case(train, 40, "sdxl-lora", "sdxl", 2),
    "flux2-klein-4-step, 1024x1024": one_step("flux2-klein", 30, "flux2-klein-4-step"),
    "Wan 2.1 1.3B, 81 frames of 480x832": one_step("wan-1.3b", 60, "wan21-4-step"),
    "qwen-image-4-step, int8": one_step(
        "qwen-image", 60, "qwen-image-4-step", "distill.quantize=int8"
    ),
    "qwen-image-4-step, nf4": one_step(
        "qwen-image", 60, "qwen-image-4-step", "distill.quantize=nf4"
    ),
    "sd15-dmd2, 8 images, no recompute": lane(20, "distill.recompute=false", images=8),
    "sdxl-lora, 8 images": Case(train, 60, "sdxl-lora", "sdxl", 8),
    "sdxl, pairs in fp32": pairs_in("fp32", "sdxl", 8, 90),
    "sdxl, pairs in bf16": pairs_in(
        "bf16", "sdxl", 8, 20, against="sdxl, pairs in fp32", bars=FASTER
    ),
}
"""The most important first."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        figures: By their names.
        bars: What is said of each.
        reason: Why it has no figures, if so.
    """

    figures: Figures
    bars: dict[str, str]
    reason: str = ""

    @property
    def good(self) -> bool:
        """Whether it has not failed, and holds its bars."""
        return not self.reason.startswith("failed") and set(self.bars.values()) <= {HOLDS}


def outcome(title: str, tiny: bool, left: float, known: dict[str, Figures]) -> Outcome:
    """Of a case, with so many seconds left and the figures of the cases before it."""
    case, figures, begin = CASES[title], Figures(), time.perf_counter()
    if left < (0 if tiny else case.seconds):
        reason = f"not run: out of time ({left:.0f} s left, it takes about {case.seconds})"
        return Outcome(figures, {str(bar): NOT_MEASURED for bar in case.bars}, reason)
    reason = ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = case.measure(case, tiny, Path(folder))
    except Exception as error:  # the others go on
        reason = f"failed: {problem_line(error)}"
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
    if figures and case.against in known:
        figures["times"] = figures["images/s"] / known[case.against]["images/s"]
    figures = {name: value for name, value in figures.items() if math.isfinite(value)}
    figures["took"] = time.perf_counter() - begin
    bars = {} if tiny else {str(bar): bar.verdict(figures) for bar in case.bars}
    return Outcome(figures, bars, reason)


def row(title: str, figures: Figures, remarks: Iterable[str]) -> str:
    """A line of the table: its columns, then remarks and the other figures."""
    cells = (f"{figures[name]:.3g}" if name in figures else "" for name in COLUMNS)
    more = (f"{name} {value:.3g}" for name, value in figures.items() if name not in COLUMNS)
    line = "".join(f"{cell:>9}" for cell in cells)
    return f"{title:{WIDTH}}{line}  {'; '.join((*remarks, *more))}".rstrip()


def main() -> int:
    """Measure, print, write; 0 if every bar holds and no case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the cases whose name holds this")
    parser.add_argument("--minutes", type=float, default=12, help="all that it may take")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, and no bars")
    arguments = parser.parse_args()
    if arguments.tiny:
        torch.set_num_threads(1)
    chosen = [title for title in CASES if arguments.only in title]
    guess = sum(CASES[title].seconds for title in chosen) / 60
    end, found = time.perf_counter() + 60 * arguments.minutes, dict[str, Outcome]()
    print(f"{CARD}, torch {torch.__version__}: {len(chosen)} cases, about {guess:.0f} minutes")
    print(f"{'':{WIDTH}}" + "".join(f"{name:>9}" for name in COLUMNS), flush=True)
    for title in chosen:
        known = {name: each.figures for name, each in found.items() if not each.reason}
        left = end - time.perf_counter()
        found[title] = each = outcome(title, arguments.tiny, left, known)
        held = (f"{bar}: {verdict}" for bar, verdict in each.bars.items())
        print(row(title, each.figures, filter(None, (each.reason, *held))), flush=True)
        if arguments.json:
            cases = {name: vars(each) for name, each in found.items()}
            told = {"card": CARD, "torch": torch.__version__, "cases": cases}
            arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if all(each.good for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
