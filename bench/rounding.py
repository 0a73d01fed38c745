#!/usr/bin/env python3
"""How far a step in bfloat16 is from one in float32: as it is done here, and under autocast.

python bench/rounding.py [--models NAME ...] [--widths 1 4 8] [--seeds 3] [--json FILE]

A step of configs/sd15-dmd2.yaml in which student and critic learn, of four images, with the tests'
tiny models, and with Stable Diffusion 1.5's so many times as wide. The critic has left the teacher:
of two equal networks' difference nothing is left but rounding. Norms of the difference, relative,
the medians of the seeds:

samples    the student's images
direction  the gradient at them, which is the critic's prediction less the guided teacher's
student    the gradient of its weights
critic     the same

The exit code is 0 if no gradient is further away than `BAR` times autocast's.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.optim import Optimizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from host import under_autocast  # noqa: E402

from pipeline.cli import load  # noqa: E402
from pipeline.training.build import TrainingRun, prepare  # noqa: E402
from tests.families.builders import BUILDERS  # noqa: E402
from tests.fixtures.tiny_models import save_tiny  # noqa: E402

BOTH = 9
"""A step in which both learn."""
BAR = 1.2
WIDER = "sd1"
"""The model that is measured at several widths."""
MODELS = (WIDER, "sdxl", "sd3", "qwen", "wan", "z-image", "sana")
FIGURES = ("samples", "direction", "student", "critic")
Figures = dict[str, float]


def prepared(model: str, teacher: Path, folder: Path, precision: str, seed: int) -> TrainingRun:
    """A run whose critic has left the teacher.

    Args:
        model: Of the tests.
        teacher: The model's folder.
        folder: The run's.
        precision: As `distill.precision`, or "autocast".
        seed: Of the draws and of the critic.
    """
    (folder / "some.prompts").write_text('"a cat"\n"a dog"\n')
    settings = {
        "run": folder,
        "seed": seed,
        "teacher.output": teacher,
        "teacher.prompts": folder / "some.prompts",
        "distill.batch_size": 4,
        "distill.lanes": 1,
        "distill.workers.max": 1,
        "distill.precision": "bf16" if precision == "bf16" else "fp32",
        **{f"teacher.{name}": value for name, value in BUILDERS[model].settings.items()},
    }
    given = [f"--config={ROOT / 'configs/sd15-dmd2.yaml'}"]
    training = prepare(load([*given, *(f"--{name}={value}" for name, value in settings.items())]))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in training.step.critic.optimizer.param_groups[0]["params"]:
            weight.add_(0.3 * weight.std(correction=0) * torch.randn_like(weight))
    return under_autocast(training) if precision == "autocast" else training


def step(training: TrainingRun) -> dict[str, Tensor]:
    """The vectors of a step, by the names in `FIGURES`."""
    found, each = dict[str, Tensor](), training.step

    def made(network: nn.Module, given: object, images: Tensor) -> None:
        found["samples"] = images.detach().flatten()
        images.register_hook(lambda gradient: found.update(direction=gradient.flatten()))

    def learns(name: str, optimizer: Optimizer) -> None:
        weights = optimizer.param_groups[0]["params"]
        found[name] = torch.cat([w.grad.flatten() for w in weights if w.grad is not None])

    each.student.network.register_forward_hook(made)
    for name, trained in (("student", each.student), ("critic", each.critic)):
        trained.optimizer.register_step_pre_hook(lambda it, *_, name=name: learns(name, it))
    each(BOTH, training.microbatches(BOTH))
    return found


def errors(model: str, teacher: Path, folder: Path, seed: int) -> dict[str, Figures]:
    """How far a step in bfloat16 is from one in float32, either way; arguments as `prepared`."""
    exact, *others = (
        step(prepared(model, teacher, folder, way, seed)) for way in ("fp32", "bf16", "autocast")
    )
    found = dict(zip(("bf16", "autocast"), others, strict=True))
    return {
        way: {name: float((it[name] - exact[name]).norm() / exact[name].norm()) for name in FIGURES}
        for way, it in found.items()
    }


def wider(tiny: Path, folder: Path, times: int) -> Path:
    """A tiny model with a UNet so many times as wide."""
    pipe = DiffusionPipeline.from_pretrained(tiny)
    config = dict(pipe.unet.config)
    config["block_out_channels"] = [times * width for width in config["block_out_channels"]]
    torch.manual_seed(0)
    pipe.unet = type(pipe.unet).from_config(config)
    pipe.save_pretrained(folder)
    return folder


def measure(model: str, times: int, seeds: Sequence[int]) -> dict[str, Figures]:
    """Medians of the seeds, of a model so many times as wide as the tests'."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher = save_tiny(folder / "tiny", model)
        if model == WIDER:
            teacher = wider(teacher, folder / "wide", times)
        found = [errors(model, teacher, folder, seed) for seed in seeds]
    return {
        way: {name: statistics.median(each[way][name] for each in found) for name in FIGURES}
        for way in found[0]
    }


def main() -> int:
    """Measure, print, write; 0 if the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="of the tests")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4, 8], help="times the tests'")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':18}", *(f"{name:>10}" for name in FIGURES))
    found, held = {}, True
    widths = {model: arguments.widths if model == WIDER else [1] for model in arguments.models}
    for model, times in ((model, times) for model, each in widths.items() for times in each):
        name = f"{model} x {times}" if model == WIDER else model
        found[name] = measure(model, times, range(arguments.seeds))
        for way, figures in found[name].items():
            print(f"{name:9} {way:8}", *(f"{100 * figures[each]:9.2f}%" for each in FIGURES))
        ours, autocast = found[name]["bf16"], found[name]["autocast"]
        held &= all(ours[name] <= BAR * autocast[name] for name in FIGURES)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
