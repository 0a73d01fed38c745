#!/usr/bin/env python3
"""Whether failing runs are found by their detectors, and healthy ones are left alone.

    failures   ten runs that fail, as their user or a bug would have them: the detector that means
               it must name nine within 200 steps of where the failure begins
    healthy    digits, MNIST and the Gaussian, short and as shipped, and others without their
               failures: nothing may be found
    back       failing runs with `distill.on_failure: roll_back`: their students end within 5% of
               those of runs without the failure (Fréchet distance to the teacher)
    cost       time of probes and judgement in the healthy runs: at most 2% of all of them

Teachers, pairs and rows are kept in runs/detectors: what is there is not made again, so that it can
be run in parts. Writes bench/results/<date>-detectors.json of all rows; exit code 1 if a bar is
missed by those.

    python bench/detectors.py                                      # 40 minutes on one core
    python bench/detectors.py --parts failures --only critic --seeds 0
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from prove import ROOT, write
from torch import Tensor, nn

sys.path.insert(0, str(ROOT))

from pipeline.cli import load
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.storage import Storage
from pipeline.diffusion import matching, seeds
from pipeline.diffusion.condition import Condition
from pipeline.evaluation.classifier import read
from pipeline.evaluation.metrics.frechet import frechet_distance
from pipeline.evaluation.real import open_training_images
from pipeline.methods.recipe import Recipe
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student
from pipeline.runs import events
from pipeline.runs.run import Run
from pipeline.stages.pairs import PairMaker, pair_plan
from pipeline.stages.teacher import make_teacher
from pipeline.training import build, hooks, loop
from pipeline.training.hooks import Hook
from pipeline.training.step import StepResult
from tests.fixtures.tiny_models import save_tiny

RUNS = ROOT / "runs" / "detectors"
WITHIN, MISSED, NEAR, COST = 200, 1, 1.05, 0.02
"""Bars: steps until a failure is named, how many may not be, distance after a roll-back, cost."""
BEGINS = 200
"""Step of the short recipes at which student and critic begin to learn together."""
OFTEN = ("--distill.checkpoint_every=50", "--distill.keep=8")
SHORT = (
    *("--distill.steps=400", "--distill.regression_steps=150", "--distill.burn_in_steps=50"),
    *OFTEN,
)
ALONE = (
    "--distill.steps=400",
    "--distill.regression_steps=0",
    "--distill.regression.weight=0",
    "--distill.burn_in_steps=100",
)
"""Without pairs, from the teacher."""
VIDEO = (
    *ALONE,
    "--distill.steps=300",
    "--teacher.image_size=[7,16,16]",
    "--pairs.guidance=1",
    "--pairs.steps=8",
    "--distill.batch_size=32",
    "--distill.regression.batch_size=32",
    *("--distill.lanes=2", "--distill.workers.min=1", "--distill.workers.max=1"),
    "--distill.precision=fp32",
    "--distill.recompute=false",
    "--distill.student.lr=1e-4",
    "--distill.student.every=1",
    "--distill.student.times=null",
    "--distill.student.lora.rank=null",
    "--distill.critic.lr=1e-3",
    "--distill.critic.lora.rank=null",
)
"""A model of Wan's layout with random weights, in one step."""
GAN = ("--distill.gan.real=data", "--distill.gan.critic_weight=1")

Spoil = Callable[[Tensor, Tensor], Tensor]
"""(what the student is given, its images) -> what a bug makes of these."""


@contextmanager
def spoilt(change: Spoil, begins: int) -> Iterator[None]:
    """The student gives other images from a step on, in training and in probes."""

    class Spoilt(Hook):
        def __init__(self, distill: Any, training: build.TrainingRun) -> None:
            self.done = 0
            training.step.student.bare.register_forward_hook(self.change)

        def after_step(self, step: int, result: StepResult) -> None:
            self.done = step

        def change(self, student: nn.Module, given: tuple[Tensor, ...], images: Tensor) -> Tensor:
            return change(given[0], images) if self.done >= begins else images

    with mock.patch.dict(hooks.HOOKS, {"spoilt": Spoilt}):
        yield


@contextmanager
def burst(begins: int) -> Iterator[None]:
    """Noise hits the student's weights, once, twice as large as they are."""
    hit = list[int]()

    class Burst(Hook):
        def __init__(self, distill: Any, training: build.TrainingRun) -> None:
            self.student = training.state.networks["student"]

        def after_step(self, step: int, result: StepResult) -> None:
            if step == begins and not hit:
                hit.append(step)
                rng = torch.Generator().manual_seed(step)
                with torch.no_grad():
                    for weight in self.student.parameters():
                        size = 2 * weight.square().mean().sqrt()
                        weight.add_(size * torch.randn(weight.shape, generator=rng))

    with mock.patch.dict(hooks.HOOKS, {"burst": Burst}):
        yield


def checkerboard(given: Tensor, images: Tensor) -> Tensor:
    """A grid of an eighth of the range lies over the images."""
    rows, columns = (torch.arange(side) for side in images.shape[-2:])
    return images + 0.125 * (1 - 2 * ((rows[:, None] + columns) % 2))


def noise(given: Tensor, images: Tensor) -> Tensor:
    """The input comes back, and next to no gradient."""
    return given / given.std() + 0 * images


def first_frame(given: Tensor, images: Tensor) -> Tensor:
    """All frames are the first."""
    return images[:, :, :1].expand_as(images)


def pushed_away() -> Any:
    """The matching gradient has the other sign."""
    pulled = matching.matching_gradient
    return mock.patch.object(matching, "matching_gradient", lambda *given: -pulled(*given))


def still_critic() -> Any:
    """The critic's learning rate is 0."""
    return mock.patch.object(build, "critic_rate", lambda distill: lambda step: 0.0)


@contextmanager
def unconditional(begins: int) -> Iterator[None]:
    """The student is given the first class whatever the label, from a step on."""

    class Unconditional(Hook):
        def __init__(self, distill: Any, training: build.TrainingRun) -> None:
            self.done = 0
            training.step.student.bare.register_forward_pre_hook(self.change)

        def after_step(self, step: int, result: StepResult) -> None:
            self.done = step

        def change(self, student: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            first = Condition({"labels": torch.zeros_like(given[2]["labels"])})
            return (*given[:2], first) if self.done >= begins else given

    with mock.patch.dict(hooks.HOOKS, {"unconditional": Unconditional}):
        yield


@dataclass(frozen=True)
class Trial:
    """A run to be trained.

    Attributes:
        config: Name of a recipe, or "video".
        settings: Changed in it.
        means: Detectors that mean what fails in it; none: it is healthy.
        begins: Step at which the failure begins.
        around: What is done to the code meanwhile.
        pairs: Name of its own set, if the one that all share does not fit.
    """

    config: str
    settings: tuple[str, ...] = SHORT
    means: tuple[str, ...] = ()
    begins: int = BEGINS
    around: Callable[[], Any] | None = None
    pairs: str = "pairs"


FAILURES = {
    "student's rate a hundred times too high": Trial(
        "digits",
        (*ALONE, "--distill.student.lr=5e-3"),
        ("saturation", "diversity", "modes", "gradients", "critic lag"),
        begins=100,
    ),
    "critic does not learn (rate 0)": Trial("digits", SHORT, ("critic lag",), around=still_critic),
    "matching loss with the wrong sign": Trial(
        "digits", ALONE, ("saturation", "diversity", "modes"), begins=100, around=pushed_away
    ),
    "critic too slow for the student": Trial(
        "gaussian",
        (*SHORT, "--distill.critic.lr=2e-5", "--distill.student.lr=1e-3"),
        ("critic lag",),
    ),
    "guidance that saturates": Trial(
        "gaussian",
        (*SHORT, "--pairs.guidance=12", "--distill.regression.weight=0"),
        ("saturation", "diversity"),
        pairs="pairs-guided",
    ),
    "labels of the mixture do not reach the student": Trial(
        "gaussian", SHORT, ("modes",), around=lambda: unconditional(BEGINS)
    ),
    "checkerboard over the images": Trial(
        "digits", SHORT, ("grid pattern",), around=lambda: spoilt(checkerboard, BEGINS)
    ),
    "GAN a hundred times too heavy": Trial(
        "digits", (*ALONE, *GAN, "--distill.gan.student_weight=5"), ("GAN won",), begins=100
    ),
    "student gives back its noise": Trial(
        "digits", SHORT, ("input noise",), around=lambda: spoilt(noise, BEGINS)
    ),
    "frames that stand still": Trial(
        "video", (), ("static frames",), begins=100, around=lambda: spoilt(first_frame, 100)
    ),
}
HEALTHY = {
    "digits": Trial("digits"),
    "MNIST": Trial("mnist"),
    "Gaussian": Trial("gaussian"),
    "digits without pairs": Trial("digits", ALONE),
    "digits with GAN": Trial("digits", (*ALONE, *GAN, "--distill.gan.student_weight=0.05")),
    "tiny video": Trial("video", ()),
    "whole Gaussian": Trial("gaussian", ()),
    "whole digits": Trial("digits", ()),
    "whole MNIST": Trial("mnist", ()),
}
BACK = {
    "whole digits": Trial("digits", OFTEN, around=lambda: burst(700)),
    "whole Gaussian": Trial("gaussian", OFTEN, around=lambda: burst(350)),
}
"""Noise hits the student's weights 100 steps after the third phase began; each is to end as the
healthy run of its name."""


def configure(name: str, trial: Trial, seed: int, more: tuple[str, ...] = ()) -> Config:
    """A run of its own on the teacher and the pairs that all seeds share."""
    home = RUNS / trial.config
    flags = [f"--seed={seed}", f"--teacher.output={home / 'teacher'}"]
    flags += [f"--run={home / f'seed-{seed}' / slug(name)}"]
    if trial.config == "video":
        flags += [f"--config={ROOT / 'configs/wan21-4-step.yaml'}", *VIDEO]
        flags += [f"--teacher.prompts={home / 'prompts.txt'}"]
    else:
        flags += [f"--config={ROOT / 'configs' / trial.config}.yaml"]
    flags += [f"--pairs.output={home / trial.pairs}", *trial.settings, *more]
    return load(flags)


def slug(name: str) -> str:
    """Of a folder."""
    return "".join(each if each.isalnum() else "-" for each in name)


def prepare(config: Config) -> None:
    """The teacher and the pairs, where they are missing: of seed 0."""
    config = config.model_copy(update={"seed": 0})
    teacher = Path(config.teacher.output)
    if config.teacher.prompts is not None and not teacher.exists():
        save_tiny(teacher, "wan", config.seed)
        Path(config.teacher.prompts).write_text("a cat\na dog\na hill\nthe sea\n")
    if config.data.name is not None:
        make_teacher(config)
    if not Recipe.of(config.distill).needs.pairs:
        return
    plan = pair_plan(config.teacher, config.pairs, config.seed)
    store = Storage(config.pairs.output, config.s3, "pairs.output")
    shards.open_plan(store, plan)
    maker = PairMaker(config.teacher, plan, store, config.pairs)
    for index in shards.missing(store, plan, config.pairs.count):
        maker.make(index)
    shards.close(store, plan, config.pairs.count)


def train(config: Config, trial: Trial) -> list[events.Event]:
    """Train from the start, however often it goes back, to the end or the first of its names.

    Returns:
        What was found.
    """
    shutil.rmtree(config.run, ignore_errors=True)
    folder = Path(config.distill.output)

    def named() -> bool:
        return any(each.detector in trial.means for each in events.noted(folder))

    with trial.around() if trial.around else ExitStack():
        prepare(config)
        Run(config).claim()
        Run(config).keep_settings()
        while loop.train(config, named) < config.distill.steps and not named():
            pass
    return [event for event in events.noted(folder) if event.kind in ("finding", "roll_back")]


def cost(config: Config) -> tuple[float, float]:
    """Seconds of probes, the teacher's images at the start among them, and of all steps."""
    lines = (Path(config.distill.output) / "metrics.jsonl").read_text().splitlines()
    figures, every = [json.loads(line) for line in lines], config.distill.log_every
    spent = sum(each.get("seconds_probe", 0.0) for each in figures)
    return every * spent, every * sum(each["seconds_step"] for each in figures)


def failure(name: str, seed: int) -> dict[str, Any]:
    """Of what was found the first that means the failure, and all else."""
    trial = FAILURES[name]
    found = train(configure(name, trial, seed), trial)
    named = next((each for each in found if each.detector in trial.means), None)
    after = named.step - trial.begins if named else None
    return {
        "named": after is not None and after <= WITHIN,
        "after": after,
        "as": named.detector if named else None,
        "words": named.text if named else None,
        "all": [(each.detector, each.step) for each in found],
    }


def healthy(name: str, seed: int) -> dict[str, Any]:
    """What was found all the same, and the seconds that probes took, of all."""
    trial = HEALTHY[name]
    config = configure(name, trial, seed)
    found = train(config, trial)
    spent, whole = cost(config)
    return {
        "alarms": [(each.detector, each.step, each.text) for each in found],
        "probes": round(spent, 2),
        "seconds": round(whole, 2),
    }


def back(name: str, seed: int) -> dict[str, Any]:
    """The distance to the teacher of a run that goes back, beside the healthy run's."""
    sound, trial = configure(name, HEALTHY[name], seed), BACK[name]
    if Run(sound).step() != sound.distill.steps:
        train(sound, HEALTHY[name])
    config = configure(f"back {name}", trial, seed, ("--distill.on_failure=roll_back",))
    found = train(config, trial)
    ours, theirs = distances(sound, [config, sound])
    return {
        "events": [(each.kind, each.detector, each.step) for each in found],
        "distance": ours,
        "healthy": theirs,
        "ratio": ours / theirs,
    }


def distances(config: Config, runs: list[Config]) -> list[float]:
    """Fréchet, of what each run's student and the teacher make of the same noise.

    On the features of a classifier of the real images, or in pixels where there are none.
    """
    teacher, count = load_teacher(config.teacher), 4000
    labels = torch.arange(count) % teacher.classes if teacher.classes else None
    solver = (config.pairs.solver, config.pairs.steps, config.pairs.guided)
    real = open_training_images(config.teacher, config.data, teacher)
    classifier = real.train_classifier() if real else None

    def made(by: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        parts = []
        for ids in torch.arange(count).split(500):
            noise = seeds.noise(config.seed, ids, teacher.shape, seeds.EVALUATION)
            parts.append(by(noise, None if labels is None else labels[ids]))
        images = torch.cat(parts)
        return read(classifier, images).features if classifier else images.flatten(1)

    reference = made(lambda noise, labels: sample_teacher(teacher, noise, labels, *solver))
    found = []
    for run in runs:
        Run(run).finish()
        student = load_student(Run(run).student_uri, run.teacher)
        images = made(partial(sample_student, student))
        found.append(frechet_distance(reference, images))
    return found


PARTS = {"failures": (FAILURES, failure), "healthy": (HEALTHY, healthy), "back": (BACK, back)}


def row(part: str, name: str, seed: int) -> None:
    """Make a row and keep it, unless it is there."""
    file = RUNS / "rows" / part / f"{slug(name)}-{seed}.json"
    if not file.exists():
        found = PARTS[part][1](name, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"name": name, "seed": seed, **found}))
    print(f"{part:9} {seed} {file.read_text()}", flush=True)


def rows(part: str) -> list[dict[str, Any]]:
    """All that are there."""
    return [json.loads(file.read_text()) for file in sorted((RUNS / "rows" / part).glob("*.json"))]


def missed(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Bars that are missed."""
    unnamed = [each["name"] for each in found["failures"] if not each["named"]]
    tried = {each["seed"] for each in found["failures"]}
    alarms = [f"{each['name']}, seed {each['seed']}" for each in found["healthy"] if each["alarms"]]
    far = [f"{each['name']}, seed {each['seed']}" for each in found["back"] if each["ratio"] > NEAR]
    spent, whole = (sum(each[key] for each in found["healthy"]) for key in ("probes", "seconds"))
    bars = {
        f"not named within {WITHIN} steps: {unnamed}": len(unnamed) > MISSED * len(tried),
        f"false alarms: {alarms}": bool(alarms),
        f"far from the healthy run after a roll-back: {far}": bool(far),
        f"probes take {spent:.0f} of {whole:.0f} s": spent > COST * whole,
    }
    return [text for text, bad in bars.items() if bad]


def main() -> int:
    """Train, print, write; 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--only", nargs="+", default=[""], help="runs whose name holds one of these"
    )
    asked = parser.parse_args()
    for part in asked.parts:
        for seed in asked.seeds:
            for name in PARTS[part][0]:
                if any(each in name for each in asked.only):
                    row(part, name, seed)
    found = {part: rows(part) for part in PARTS}
    write("detectors", found)
    bad = missed(found)
    print(*bad, sep="\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
