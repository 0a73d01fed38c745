#!/usr/bin/env python3
"""The host's work for a step in bfloat16: copies that are cast once an update, against autocast.

python bench/host.py [--pairs 7] [--only MODEL] [--json FILE]

On one CPU core, with networks of the real depth and tiny widths, so that nearly all of the time is
what PyTorch needs to get a kernel going. A cycle of configs/sd15-dmd2.yaml, one step of the student
and ten of the critic, of two images; its draws are made before. Beside it the same cycle as it was
done before: weights in float32, autocast around every loss, a look at each gradient's norm.

                                                                                             bar
host_ratio_same_recompute  CPU seconds, ours / autocast's; blocks recomputed in both        0.65
host_ratio_all_kept        the same, blocks recomputed in neither                             no
host_ratio_best            ours without recomputing / autocast's with                       0.50
aten_ratio                 operators called, ours / autocast's; blocks recomputed in both   0.60
aten_ratio_all_kept        the same, in neither                                               no
casts_per_weight           of our weights to bfloat16, for each weight and update              1

With --compiled blocks ours has its blocks compiled, as by default on a GPU, with --compiled whole
its networks, which here takes a C++ compiler some minutes, of sd1 fifteen; casts are not counted
then. Ratios are medians of interleaved
timings. Products of matrices in bfloat16 are slow on a CPU that has no instructions for them; they
count on both sides, though a GPU would do them: so prompts of Wan have 16 words, not 512.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DiffusionPipeline, WanPipeline
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.cli import load  # noqa: E402
from pipeline.methods.dmd import DMD  # noqa: E402
from pipeline.training import build  # noqa: E402
from pipeline.training.hooks import EMA  # noqa: E402
from pipeline.training.trained import Trained  # noqa: E402
from tests.families.builders import BUILDERS  # noqa: E402
from tests.fixtures.tiny_models import save_tiny  # noqa: E402

CYCLE, IMAGES, WORDS = 10, 2, 16
BARS = {
    "host_ratio_same_recompute": 0.65,
    "host_ratio_best": 0.5,
    "aten_ratio": 0.6,
    "casts_per_weight": 1.0,
}
UNET = {
    "block_out_channels": [8, 16, 16, 16],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": ("unet", UNET),
    "qwen": ("transformer", {"num_layers": 12}),
    "wan": ("transformer", {"num_layers": 12}),
}
"""Tiny model of the tests -> its backbone, and what makes it as deep as a real one, or nearly."""
Figures = dict[str, float]


class Autocast(DMD):
    """The method with every loss under autocast."""

    def student_loss(self, *given: Any) -> Any:
        """See `DMD`."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().student_loss(*given)

    def critic_loss(self, *given: Any) -> Any:
        """See `DMD`."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().critic_loss(*given)

    def samples(self, *given: Any) -> Tensor:
        """See `DMD`."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().samples(*given)


class Looking(Trained):
    """Waits for each gradient's norm before the optimiser steps."""

    def update(self, *given: Any) -> Tensor:
        """See `Trained`."""
        norm = super().update(*given)
        assert norm.isfinite()
        return norm


@dataclass
class Run:
    """A run that is timed.

    Args:
        training: As a worker has it.
    """

    training: build.TrainingRun

    def __post_init__(self) -> None:
        self.ema = EMA(self.training)
        self.draws = [self.training.microbatches(step) for step in range(CYCLE)]
        self.cycle()

    def cycle(self) -> None:
        """Steps of the critic, in the last of which the student learns too."""
        for number in range(CYCLE):
            self.step(number)

    def step(self, number: int) -> None:
        """One of them."""
        self.training.step(number, self.draws[number], self.ema.after_student_update)

    def seconds(self) -> float:
        """CPU time of a step."""
        start = time.process_time()
        self.cycle()
        return (time.process_time() - start) / CYCLE

    def operators(self) -> int:
        """Calls of PyTorch's operators in a cycle, by its profiler; in compiled blocks few are."""
        found = []
        for number in (0, CYCLE - 1):
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                self.step(number)
            calls = (each for each in seen.key_averages() if each.key.startswith("aten::"))
            found.append(sum(each.count for each in calls))
        critic, both = found
        return (CYCLE - 1) * critic + both

    def casts(self) -> int:
        """Copies of weights to another type in a cycle."""
        each = (self.training.step.student, self.training.step.critic)
        weights = [weight for one in each for weight in one.network.parameters()]
        with Casts({weight.data_ptr() for weight in weights}) as casts:
            self.cycle()
        return casts.found


class Casts(TorchDispatchMode):
    """Counts casts of weights, and into copies of them.

    Args:
        weights: Where the weights that networks compute with are.
    """

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.found = weights, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at an operator, and call it."""
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype"):
            self.found += args[0].data_ptr() in self.weights
        if func is torch.ops.aten._foreach_copy_.default:
            self.found += sum(each.data_ptr() in self.weights for each in args[0])
        return func(*args, **(kwargs or {}))


def save_deep(folder: Path, model: str) -> Path:
    """A tiny model of the tests with a deep backbone of random weights."""
    pipe = DiffusionPipeline.from_pretrained(save_tiny(folder / "tiny", model))
    part, settings = MODELS[model]
    old = getattr(pipe, part)
    torch.manual_seed(0)
    setattr(pipe, part, type(old).from_config({**old.config, **settings}))
    pipe.save_pretrained(folder / "deep")
    return folder / "deep"


@contextmanager
def short_prompts() -> Iterator[None]:
    """Wan's prompts are padded to fewer words."""
    encode = WanPipeline.encode_prompt

    def encode_short(*given: Any, **settings: Any) -> Any:
        return encode(*given, **{**settings, "max_sequence_length": WORDS})

    with patch.object(WanPipeline, "encode_prompt", encode_short):
        yield


WAYS = {
    "before": {"precision": "fp32", "recompute": "true"},
    "before, all kept": {"precision": "fp32", "recompute": "false"},
    "ours": {"precision": "bf16", "recompute": "true"},
    "best": {"precision": "bf16", "recompute": "false"},
}


@contextmanager
def prepared(model: str, ways: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Run]]:
    """Runs of a model, one of each way."""
    with tempfile.TemporaryDirectory() as name, short_prompts():
        folder = Path(name)
        teacher = save_deep(folder, model)
        (folder / "some.prompts").write_text('"a cat"\n"a dog"\n')
        flags = {
            "run": folder / "run",
            "teacher.output": teacher,
            "teacher.prompts": folder / "some.prompts",
            **{f"teacher.{name}": value for name, value in BUILDERS[model].settings.items()},
            "distill.batch_size": IMAGES,
            "distill.lanes": 1,
            "distill.workers.max": 1,
        }

        def made(how: Mapping[str, str]) -> build.TrainingRun:
            settings = flags | {f"distill.{key}": value for key, value in how.items()}
            given = [f"--{key}={value}" for key, value in settings.items()]
            return build.prepare(load([f"--config={ROOT / 'configs/sd15-dmd2.yaml'}", *given]))

        runs = {name: made(how) for name, how in ways.items()}
        yield {
            name: Run(under_autocast(training) if "before" in name else training)
            for name, training in runs.items()
        }


def under_autocast(training: build.TrainingRun) -> build.TrainingRun:
    """A run in float32 as one in bfloat16 was before, its teacher's weights in bfloat16."""
    step = training.step
    for weight in training.grid.teacher.parameters():
        weight.data = weight.data.bfloat16()
    method = Autocast(**vars(step.method))
    student, critic = (Looking(**vars(each)) for each in (step.student, step.critic))
    step = replace(step, method=method, student=student, critic=critic)
    return replace(training, step=step)


def measure(model: str, pairs: int, compiled: str) -> Figures:
    """The figures of a model, ours compiled as `distill.compile` would have it."""
    compilation = {"ours": {"compile": compiled}, "best": {"compile": compiled}}
    ways = {name: way | compilation.get(name, {}) for name, way in WAYS.items()}
    with prepared(model, ways) as runs:
        operators = {name: run.operators() / CYCLE for name, run in runs.items()}
        times = [{name: 1e3 * run.seconds() for name, run in runs.items()} for _ in range(pairs)]
        step, casts = runs["ours"].training.step, runs["ours"].casts() if compiled == "none" else 0
        weights = [
            len(each.masters.weights) for each in (step.student, step.critic) if each.masters
        ]

    def ratio(ours: str, theirs: str) -> float:
        return statistics.median(each[ours] / each[theirs] for each in times)

    return {
        "host_ratio_same_recompute": ratio("ours", "before"),
        "host_ratio_all_kept": ratio("best", "before, all kept"),
        "host_ratio_best": ratio("best", "before"),
        "aten_ratio": operators["ours"] / operators["before"],
        "aten_ratio_all_kept": operators["best"] / operators["before, all kept"],
        "casts_per_weight": casts / (weights[0] + CYCLE * weights[1]),
        **{f"ms {name}": statistics.median(each[name] for each in times) for name in ways},
        **{f"operators {name}": value for name, value in operators.items()},
    }


def main() -> int:
    """Measure, print, write; 0 if the bars hold for all models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="interleaved timings of each")
    parser.add_argument("--only", choices=MODELS, help="one model")
    parser.add_argument("--compiled", choices=("none", "blocks", "whole"), default="none")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for model in [arguments.only] if arguments.only else MODELS:
        found[model] = measure(model, arguments.pairs, arguments.compiled)
        print(model)
        for name, value in found[model].items():
            print(f"  {name:26} {value:9.3g}" + (f"  bar {BARS[name]}" if name in BARS else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return (
        0 if all(each[name] <= bar for each in found.values() for name, bar in BARS.items()) else 1
    )


if __name__ == "__main__":
    sys.exit(main())
