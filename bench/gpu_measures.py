"""How bench/gpu.py measures a case: a turn of training, a shard of pairs, or all jobs."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import prove
import torch
from gpu_models import MODELS, PROMPTS, builder
from train import ROOT, seconds

from pipeline.cli import load
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.local import LocalStore
from pipeline.models.denoiser import Denoiser
from pipeline.runs.host_copy import HostCopy
from pipeline.runs.run import Run
from pipeline.stages import pairs
from pipeline.training import build
from pipeline.training.hooks import EMA
from pipeline.training.memory import footprint
from pipeline.training.peaks import peak

Figures = dict[str, float]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
CARD = torch.cuda.get_device_name() if GPU else "CPU"
STEPS = 10
"""Of the solver."""
HOLDS, NOT_MEASURED = "holds", "not measured"


@dataclass(frozen=True)
class Bar:
    """What a figure must be at least, or at most.

    Attributes:
        figure: Its name.
        limit: Its bound.
        most: Whether this is the largest that it may be.
    """

    figure: str
    limit: float
    most: bool = False

    def __str__(self) -> str:
        return f"{self.figure} {'<=' if self.most else '>='} {self.limit:g}"

    def verdict(self, figures: Figures) -> str:
        """Whether it holds, in a word or two."""
        if (found := figures.get(self.figure)) is None:
            return NOT_MEASURED
        return HOLDS if (found <= self.limit if self.most else found >= self.limit) else "MISSED"


@dataclass(frozen=True)
class Case:
    """A recipe as one worker runs it.

    Attributes:
        measure: Finds the figures of the case; whether it is a tiny one; in a folder.
        seconds: That it takes on an H100, as we guess: with less time left it does not run.
        recipe: File in `configs/`.
        model: Whose shapes.
        images: Of a step, or of a shard.
        settings: Other changes, `--a.b=value` without the dashes.
        against: The case whose images/s it is held against.
        bars: Of its figures.
    """

    measure: Callable[["Case", bool, Path], Figures]
    seconds: int
    recipe: str
    model: str = ""
    images: int = 1
    settings: tuple[str, ...] = ()
    against: str = ""
    bars: tuple[Bar, ...] = ()

    def config(self, tiny: bool, folder: Path) -> Config:
        """Its settings; the prompts lie in the folder."""
        images, settings = (2 if tiny else self.images), dict[str, Any]()
        if tiny:
            told = builder(MODELS[self.model].tiny).settings
            settings |= {f"teacher.{key}": value for key, value in told.items()}
        settings |= {
            "run": folder,
            "teacher.prompts": folder / "prompts",
            "distill.batch_size": images,
            "distill.regression.batch_size": images,
            "distill.lanes": 1,
            "distill.workers.max": 1,
            "pairs.count": 2 * images,
            "pairs.shard_size": images,
            "pairs.steps": 2 if tiny else STEPS,
        }
        lines = (f"{json.dumps(prompt)}\n" for prompt in PROMPTS)
        (folder / "prompts").write_text("".join(lines))
        flags = [f"--{key}={value}" for key, value in settings.items()]
        flags += [f"--{each}" for each in self.settings]
        return load([f"--config={ROOT / f'configs/{self.recipe}.yaml'}", *flags])

    def teacher(self, config: Config, tiny: bool) -> Denoiser:
        """In float32: on the host where adapters share it, else on the GPU, made there."""
        home = torch.device("cpu") if config.distill.shares_base else DEVICE
        return MODELS[self.model].teacher(config.teacher, tiny, home)


def held() -> float:
    """GiB that PyTorch held at most since it was last asked; nan without a GPU."""
    if not GPU:
        return math.nan
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return most


def finish() -> None:
    """Wait for what the GPU has been told."""
    if GPU:
        torch.cuda.synchronize()


def prepare(config: Config, teacher: Denoiser) -> build.TrainingRun:
    """As a worker does, but with a teacher in memory and noise for real latents."""
    size = config.distill.batch_size
    real = torch.randn(size, *teacher.shape), torch.zeros(size, dtype=torch.int64)
    source = None if config.distill.gan.real is None else lambda index: real
    with (
        mock.patch.object(Run, "load_teacher", lambda _: teacher),
        mock.patch.object(Run, "fingerprint", "bench"),
        mock.patch.object(build, "new_source", lambda *_: source),
    ):
        return build.prepare(config)


def train(case: Case, tiny: bool, folder: Path, checkpoints: bool = False) -> Figures:
    """A turn of training, and with `checkpoints` two more of them beside a copy of the state."""
    held()
    config = case.config(tiny, folder)
    teacher, distill = case.teacher(config, tiny), config.distill
    foreseen, cycle = footprint(config, teacher).total / 2**30, distill.student.every
    training = prepare(config, teacher)
    start, ema = held(), EMA(training)
    training.step(0, training.microbatches(0), ema.after_student_update)
    finish()
    turn = range(cycle, 2 * cycle)

    def one_cycle(before: Callable[[int], None] = lambda _: None) -> None:
        for number in turn:
            training.step(number, training.microbatches(number), ema.after_student_update, before)
        finish()

    whole = seconds(one_cycle)
    found = {
        "images/s": distill.batch_size * cycle / whole,
        "s/step": whole / cycle,
        "GiB": held(),
        "foreseen": foreseen,
        "start": start,
    }
    if training.flops and (most := peak(CARD, distill.precision)):
        found["mfu"] = sum(map(training.flops, turn)) / whole / 1e12 / most
    if not checkpoints:
        return found
    begin = time.perf_counter()
    copy = HostCopy(training.state)
    found["reserve"] = time.perf_counter() - begin

    def beside_a_copy() -> None:
        copy.begin()
        one_cycle(lambda _: copy.before_change())

    found["copy"], found["again"] = (seconds(beside_a_copy) - whole for _ in range(2))
    return found | {"stall": found["again"] / found["s/step"]}


def make_pairs(case: Case, tiny: bool, folder: Path) -> Figures:
    """Two shards with a teacher in memory, of which the second is timed."""
    held()
    config = case.config(tiny, folder)
    teacher = case.teacher(config, tiny)
    with (
        mock.patch.object(pairs, "load_teacher", lambda _: teacher),
        mock.patch.object(pairs, "teacher_fingerprint", lambda _: "bench"),
    ):
        plan = pairs.pair_plan(config.teacher, config.pairs, config.seed)
        shards.open_plan(store := LocalStore(folder), plan)
        maker = pairs.PairMaker(config.teacher, plan, store, config.pairs)
        maker.make(0)
        spent = seconds(partial(maker.make, 1))
    return {"images/s": plan.shard_size / spent, "GiB": held(), "batch": maker.batch_size}


DIGITS = (
    *("fd_teacher", "fd_floor", "fd_real", "teacher_fd_real"),
    *("accuracy", "teacher_accuracy", "recall", "teacher_recall", "speedup"),
)
"""What is shown of an evaluation."""
JOBS = ("teacher", "pairs", "distill", "export", "evaluate")
ALONE = (
    *("pairs.actors.max=1", f"pairs.actors.gpus={int(GPU)}"),
    *("distill.workers.max=1", f"distill.workers.gpus={int(GPU)}"),
)
FEW = (
    *("teacher.training.steps=20", "pairs.count=200", "pairs.shard_size=100", "pairs.steps=2"),
    *("pairs.batch_size=100", "distill.steps=30", "distill.regression_steps=10"),
    *("distill.burn_in_steps=5", "distill.scoring.count=0", "evaluate.count=200"),
)
"""Steps and pairs of the digits with `--tiny`."""


def run_jobs(case: Case, tiny: bool, folder: Path) -> Figures:
    """All jobs, each in a process of its own; what is evaluated is the exported student."""
    settings = (f"run={folder}", f"evaluate.student={folder / 'export'}")
    flags = [f"--{each}" for each in (*settings, *ALONE, *(FEW if tiny else ()))]
    spent = {}
    for job in JOBS:
        command = [sys.executable, f"jobs/{job}.py", f"--config=configs/{case.recipe}.yaml", *flags]
        begin = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        if done.returncode:
            last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"jobs/{job}.py ended with {done.returncode}: {last}")
        spent[job] = time.perf_counter() - begin
    found = json.loads((folder / "evaluation.json").read_text())
    figures = spent | {name: found[name] for name in DIGITS}
    if tiny:
        return figures
    missed = [bar for bar, holds in prove.BARS[case.recipe].items() if not holds(found)]
    for bar in missed:
        print(f"{case.recipe}: MISSED {bar}", flush=True)
    return figures | {"missed": len(missed)}
