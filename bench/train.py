#!/usr/bin/env python3
"""What training costs beside the mathematics, each ratio from interleaved runs of one session.

python bench/train.py [--pairs 7] [--output FILE.json]

ray     CPU time of a step under Ray Train / in a plain process, both at once   bar <= 1.03
stall   steps that training stands still for a checkpoint               bar <= 1
saving  that time / a save on the training thread                       bar <= 0.25
first   that time of the first checkpoint / of a later one              bar <= 1.25
slowed  steps lost beside a save, whose thread shares the cores         no bar
ahead   waiting for microbatches drawn ahead / in their turn            bar <= 0.5
loader  pairs read per second / pairs consumed per second               bar >= 20
update  fused AdamW and average / their for-loops                       bar <= 0.35
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.cli import load  # noqa: E402
from pipeline.config import Config  # noqa: E402
from pipeline.data import shards  # noqa: E402
from pipeline.data.reader import PairReader  # noqa: E402
from pipeline.data.storage import Storage  # noqa: E402
from pipeline.methods.microbatch import Microbatch  # noqa: E402
from pipeline.models.ema import ema_of  # noqa: E402
from pipeline.runs.async_saver import AsyncSaver  # noqa: E402
from pipeline.runs.run import Run  # noqa: E402
from pipeline.stages.pairs import PairMaker, pair_plan  # noqa: E402
from pipeline.training import build, loop  # noqa: E402
from pipeline.training.hooks import EMA  # noqa: E402

STEPS = 48
BARS: dict[str, Callable[[float], bool]] = {
    "ray": lambda ratio: ratio <= 1.03,
    "stall": lambda steps: steps <= 1,
    "saving": lambda ratio: ratio <= 0.25,
    "first": lambda ratio: ratio <= 1.25,
    "slowed": lambda steps: True,
    "ahead": lambda ratio: ratio <= 0.5,
    "loader": lambda ratio: ratio >= 20,
    "update": lambda ratio: ratio <= 0.35,
}


def configured(folder: Path, name: str, **more: Any) -> Config:
    """The digits recipe's networks and batches on an exact teacher."""
    values = {
        "run": folder / name,
        "pairs.output": folder / "pairs",
        "pairs.count": 2000,
        "pairs.shard_size": 500,
        "pairs.steps": 3,
        "network.channels": "[32,64]",
        "network.attention": "[false,true]",
        "network.norm_groups": 8,
        "teacher.gaussian.shape": "[1,8,8]",
        "distill.steps": STEPS,
        "distill.regression_steps": 4,
        "distill.burn_in_steps": 4,
        "distill.log_every": 20,
        "distill.checkpoint_every": STEPS,
        "distill.sample_every": STEPS,
        "distill.workers.max": 1,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    flags = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    return load(["--config", str(ROOT / "configs" / "gaussian.yaml"), *flags])


def large(folder: Path) -> Config:
    """As many weights as make a checkpoint slower than a step."""
    size = {"network__channels": "[128,256]", "network__norm_groups": 32, "distill__batch_size": 8}
    return configured(folder, "saving", **size, distill__regression__batch_size=8)


def cpu_per_step(config: Config, leaving: Callable[[], bool], show: Callable[..., None]) -> float:
    """CPU seconds of a step between two lines of the log, while the other process is there too."""
    torch.set_num_threads(1)
    marks: list[float] = []

    def mark(figures: dict[str, float]) -> None:
        show(figures)
        if not marks:
            (Path(config.run) / "ready").touch()
            while len(list(Path(config.run).parent.glob("*/ready"))) < 2:
                time.sleep(0.05)
        marks.append(time.process_time())

    loop.train(config, leaving, mark)
    return (marks[1] - marks[0]) / config.distill.log_every


def plain(settings: dict[str, Any]) -> float:
    """The loop in a process of Ray's that knows nothing of Ray Train."""
    return cpu_per_step(Config.model_validate(settings), lambda: False, lambda _: None)


def with_ray_train(config: Config) -> float:
    """The loop as the job runs it."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    result = Path(config.run) / "cpu"

    def worker(settings: dict[str, Any]) -> None:
        from pipeline.cluster.distill import gauges
        from pipeline.cluster.signals import leaving

        own = Config.model_validate(settings)
        result.write_text(str(cpu_per_step(own, leaving(Run(own).storage, ""), gauges())))

    with tempfile.TemporaryDirectory() as folder:
        TorchTrainer(
            worker,
            train_loop_config=config.model_dump(mode="json"),
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="bench", storage_path=folder),
        ).fit()
    return float(result.read_text())


def under_ray(folder: Path, repeats: int) -> list[float]:
    """Ratios of CPU time per step, Ray Train to plain."""
    import ray

    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ray.init(address="local", num_cpus=2, runtime_env={"env_vars": env}, log_to_driver=False)
    ratios = []
    for number in range(repeats):
        pair = folder / f"pair-{number}"
        ours, bare = (
            configured(pair, name, pairs__output=folder / "pairs") for name in ("ray", "plain")
        )
        Path(ours.run).mkdir(parents=True)
        base = ray.remote(plain).remote(bare.model_dump(mode="json"))
        ratios.append(with_ray_train(ours) / ray.get(base))
    ray.shutdown()
    return ratios


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def checkpoints(config: Config, repeats: int) -> dict[str, list[float]]:
    """What a checkpoint costs the training thread; see the top."""
    training = build.prepare(config)
    ema, numbers = EMA(training), iter(range(10**9))
    found: dict[str, list[float]] = {"stall": [], "saving": [], "first": [], "slowed": []}

    def step() -> None:
        number = next(numbers)
        training.step(number, training.microbatches(number), ema.after_student_update)

    for _ in range(10):
        step()
    device = training.step.accelerator.device
    new = partial(AsyncSaver, Run(config).checkpoints, device=device, state=training.state)
    for number in range(repeats):
        with new(attempt=f"bench-{number}", fingerprint=training.fingerprint) as saver:
            alone = statistics.median(seconds(step) for _ in range(15))
            stall = seconds(partial(saver.save, 3 * number))
            slowed = 0.0
            while (pending := saver._pending) and not pending.done():
                slowed += seconds(step) - alone
            saver.wait()
            begin = time.perf_counter()
            saver.save(3 * number + 1)
            saver.wait()
            whole = time.perf_counter() - begin
            for part, value in (("stall", stall / alone), ("saving", stall / whole)):
                found[part].append(value)
            found["slowed"].append(slowed / alone)
            step()
            found["first"].append(stall / seconds(partial(saver.save, 3 * number + 2)))
    return found


def waiting(config: Config, repeats: int) -> list[float]:
    """Seconds that training waits for microbatches drawn ahead, over those for the others."""
    training, count, ratios = build.prepare(config), 6, []
    ema = EMA(training)

    def waited(drawn: Iterator[dict[int, Microbatch]], steps: range) -> float:
        spent = []
        for step in steps:
            begin = time.perf_counter()
            microbatches = next(drawn)
            spent.append(time.perf_counter() - begin)
            training.step(step, microbatches, ema.after_student_update)
        return sum(spent[1:])  # before the first there is nothing to be drawn beside

    for first in range(0, 2 * count * repeats, 2 * count):
        one, other = range(first, first + count), range(first + count, first + 2 * count)
        beside = waited(loop.draw_ahead(training, one), one)
        ratios.append(beside / waited(map(training.microbatches, other), other))
    return ratios


def loader(config: Config, repeats: int) -> list[float]:
    """Pairs read per second, over pairs that a step of regression consumes per second."""
    training, batch = build.prepare(config), config.distill.regression.batch_size
    ema, ratios = EMA(training), []
    for number in range(repeats):
        steps = [(n, training.microbatches(n)) for n in range(2 * number, 2 * number + 2)]
        begin = time.perf_counter()
        for step in steps:
            training.step(*step, ema.after_student_update)
        used = time.perf_counter() - begin
        reader = PairReader(Storage(config.pairs.output, config.s3, "pairs.output"), number, batch)
        begin = time.perf_counter()
        for n in range(15):
            reader.batch(n)
        read = time.perf_counter() - begin
        ratios.append((15 / read) / (2 / used))
    return ratios


def update(config: Config, repeats: int) -> list[float]:
    """Our optimiser step and average, over PyTorch's for-loops of both."""
    network = build.prepare(config).state.networks["student"]
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    ours = torch.optim.AdamW(network.parameters(), fused=True)
    theirs = torch.optim.AdamW(network.parameters(), foreach=False, fused=False)
    average = ema_of(network, 0.999)
    looped = AveragedModel(network, avg_fn=lambda old, new, _: old + 0.001 * (new - old))

    def fused() -> None:
        for _ in range(20):
            ours.step()
            average.update_parameters(network)

    def for_loop() -> None:
        for _ in range(20):
            theirs.step()
            looped.update_parameters(network)

    fused()
    for_loop()
    return [seconds(fused) / seconds(for_loop) for _ in range(repeats)]


def make_pairs(config: Config) -> None:
    """The pair set that all parts read."""
    plan, store = (
        pair_plan(config.teacher, config.pairs, config.seed),
        Storage(config.pairs.output, config.s3, "pairs.output"),
    )
    shards.open_plan(store, plan)
    maker = PairMaker(config.teacher, plan, store, config.pairs)
    for index in shards.missing(store, plan, config.pairs.count):
        maker.make(index)
    shards.close(store, plan, config.pairs.count)


def main() -> int:
    """Measure, print, write; 0 if every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of runs")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, repeats = Path(name), arguments.pairs
        make_pairs(configured(folder, "any"))
        found = {"update": update(configured(folder, "update"), repeats)}
        found["ahead"] = waiting(configured(folder, "ahead"), repeats)
        found["loader"] = loader(configured(folder, "loader"), repeats)
        found |= checkpoints(large(folder), repeats)
        found["ray"] = under_ray(folder, repeats)
    results = {part: statistics.median(found[part]) for part in BARS}
    for part, holds in BARS.items():
        spread = f"{min(found[part]):.3g} to {max(found[part]):.3g}"
        verdict = "holds" if holds(results[part]) else "MISSED"
        verdict = "" if part == "slowed" else verdict
        print(f"{part:8} {results[part]:8.3g}   ({spread})   {verdict}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"medians": results, "all": found}, indent=1) + "\n")
    return 0 if all(holds(results[part]) for part, holds in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
