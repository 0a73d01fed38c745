#!/usr/bin/env python3
"""Every method against a known answer: students of an exact mixture of Gaussians in the plane.

The teacher is the mixture in closed form. Student and critic are small networks that begin as a
copy of one that was taught its x0, as the product's begin as copies of their teacher. Each student
gets 1,500 updates by the product's own method and step, and 100,000 of its points are judged by the
mixture itself. Every figure is kept in `bench/results/mixture.json`, with its date, commit and
settings, and measured again only where these have changed. Prints all that is known: mean and
spread over the seeds; bold where their mean keeps the bar.

    python bench/mixture.py                            # all methods, seeds 0, 1, 2
    python bench/mixture.py --ablate                   # why a GAN hurts, one change at a time
    python bench/mixture.py --seeds 0 --only SiD
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from accelerate import Accelerator
from figures import sample_sde
from mixture_law import BARS, COLUMNS, COUNT, LAW, distance
from mixture_methods import ABLATIONS, BASE, BATCH, METHODS, RIGHT, Method, Rightward
from prove import ROOT, commit, spread
from torch import Tensor

from pipeline.diffusion import seeds
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.losses import denoising_loss
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.terms.reward import REWARDS
from pipeline.models.critic import Critic
from pipeline.models.ema import ema_of
from pipeline.models.sampling import guide, sample_teacher
from pipeline.training.hooks import EMA, Hooks
from pipeline.training.ida import IDA
from pipeline.training.method import build_method
from pipeline.training.step import TrainStep
from pipeline.training.trained import critic_rate, in_training, student_rate
from tests.fixtures.planar import SHAPE, Planar

FILE = ROOT / "bench" / "results" / "mixture.json"
PAIRS = 8192
Make = Callable[[Tensor], Tensor]
Rows = dict[str, dict[str, dict[str, Any]]]


@cache
def beginning(seed: int) -> Planar:
    """A network that has learnt the teacher's x0."""
    torch.manual_seed(seed)
    network, rng, steps = Planar(), torch.Generator().manual_seed(seed), 3000
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    schedule, teacher = network.schedule, LAW.teacher()
    for step in range(steps):
        t = schedule.time_from_fraction(torch.rand(512, generator=rng))
        x_t = LAW.draw(512, rng) + t.view(-1, 1, 1, 1) * torch.randn(512, *SHAPE, generator=rng)
        x0 = network(x_t, t, Condition())
        denoising_loss(x0, teacher(x_t, t, Condition()), network.error_weight(t)).backward()
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    return network


@cache
def pairs() -> PairBatch:
    """Noises and where the teacher's ODE takes them."""
    noise = torch.randn(PAIRS, *SHAPE, generator=torch.Generator().manual_seed(0))
    return PairBatch(torch.arange(PAIRS), None, noise, ode(64)(noise))


def train(method: Method, seed: int) -> Make:
    """A student by a method: unit-variance noise (B, 2, 1, 1) -> points of the same shape."""
    distill, teacher = method.distill, LAW.teacher()
    torch.manual_seed(seed)
    dmd, start = build_method(distill, teacher, torch.device("cpu")), beginning(seed)
    judging: Any = start.with_judged_layers() if method.apart else copy.deepcopy(start)
    exits = len(dmd.sampler.timesteps) if method.told else 1
    critic = Critic(judging, None if dmd.recipe.needs.heads else [], exits)
    student, accelerator = copy.deepcopy(start), Accelerator(cpu=True)
    step = TrainStep(
        method=dmd,
        student=in_training(student, student_rate(distill), accelerator, distill),
        critic=in_training(critic, critic_rate(distill), accelerator, distill),
        teacher=guide(teacher, 1.0),
        accelerator=accelerator,
        microbatches=1,
        clip=distill.clip,
    )
    average, rng = ema_of(student, distill.ema), torch.Generator().manual_seed(seed)
    state = SimpleNamespace(networks={"student": student, "critic": critic})
    run: Any = SimpleNamespace(step=step, state=state, ema=average)
    hooks = Hooks([EMA(run), *([IDA(distill.critic.ida, run)] if distill.critic.ida < 1 else [])])
    for number in range(distill.steps):
        rows = torch.randint(PAIRS, (BATCH,), generator=rng)
        taken = pairs().rows(rows) if dmd.plan(number).on_pairs else None
        real = (real_points(method, seed, rng), None) if dmd.recipe.needs.real else None
        drawn = dmd.draw(BATCH, rng, taken, real, dmd.step_index_at(seed, number))
        step(number, {0: drawn}, hooks.after_student_update)
    return lambda noise: dmd.sampler.images(average.module, noise, Condition())


def real_points(method: Method, seed: int, rng: torch.Generator) -> Tensor:
    """A batch for the GAN, (BATCH, 2, 1, 1), fresh or of the few that there are."""
    if not method.few:
        return method.real.draw(BATCH, rng)
    few = method.real.draw(method.few, seeds.generator("few", seed))
    return few[torch.randint(method.few, (BATCH,), generator=rng)]


@torch.no_grad()
def points(make: Make, seed: int, stream: int = seeds.EVALUATION) -> Tensor:
    """Of a seed's noise, (COUNT, 2, 1, 1)."""
    parts = torch.arange(COUNT).split(10_000)
    return torch.cat([make(seeds.noise(seed, ids, SHAPE, stream)) for ids in parts])


@cache
def solved(seed: int) -> Tensor:
    """Points of the teacher's ODE in 18 steps, from other noise than what is judged."""
    return points(ode(18), seed, seeds.FLOOR)


def ode(steps: int) -> Make:
    """The teacher's, by Heun's method."""
    return lambda noise: sample_teacher(LAW.teacher(), noise, None, "heun", steps, 1.0)


def judge(make: Make, seed: int, tilted: bool = False) -> dict[str, Any]:
    """By the mixture, or by its nearest tilt by the reward; and beside the ODE of 18 steps."""
    found, law, row = points(make, seed), LAW, dict[str, Any]()
    if tilted:
        row["tilt"] = LAW.nearest_tilt(RIGHT, found)
        law = LAW.tilted(RIGHT, row["tilt"])
    row |= law.figures(found) | {"ode": distance(found, solved(seed))}
    return row | {"statistics": law.statistics(found).tolist()}


def measure(method: Method, seed: int) -> dict[str, Any]:
    """Train and judge."""
    begun = time.process_time()
    make = train(method, seed)
    spent = time.process_time() - begun
    return judge(make, seed, "reward" in method.distill.terms) | {"cpu_seconds": spent}


def references(seed: int) -> dict[str, Make]:
    """What makes points without a student: the law itself, and its exact scores in solvers."""
    teacher, rng = LAW.teacher(), seeds.generator("exact", seed)
    return {
        "exact points": lambda noise: LAW.draw(len(noise), rng),
        "teacher, ODE of 18 steps": ode(18),
        "teacher, ODE of 64 steps": ode(64),
        "teacher, SDE of 128 steps": lambda noise: sample_sde(teacher, noise, None),
    }


def known() -> Rows:
    """All rows that were measured: by name and seed."""
    rows: Rows = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return rows


def once(name: str, seed: int, settings: str, find: Callable[[], dict[str, Any]]) -> None:
    """Find the figures of a row and seed, unless they are known for these settings."""
    rows = known()
    if rows.get(name, {}).get(str(seed), {}).get("settings") == settings:
        return
    stamp = {"date": str(datetime.now(UTC).date()), "commit": commit(), "settings": settings}
    rows.setdefault(name, {})[str(seed)] = row = {**stamp, **find()}
    FILE.write_text(json.dumps(rows, indent=1) + "\n")
    print(seed, name, {each: f"{row[each]:.3g}" for each in COLUMNS if each in row}, flush=True)


def table(names: Iterable[str]) -> list[str]:
    """Markdown, one row a method; of a figure with a bar, bold where its mean keeps it."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    rows = known()
    for name in names:
        if row := rows.get(name):
            some = "" if len(row) == max(map(len, rows.values())) else f" (seeds {', '.join(row)})"
            cells = [cell(each, row) for each in COLUMNS]
            lines.append(f"| {name}{some} | {' | '.join(cells)} |")
    return lines


def cell(column: str, row: dict[str, Any]) -> str:
    """Mean ± standard deviation over the seeds."""
    values = [each[column] for each in row.values() if column in each]
    text = spread(values)
    kept = bool(values) and statistics.fmean(values) <= BARS.get(column, -1)
    return f"**{text}**" if kept else text


def pulled(name: str) -> str:
    """How far other real points pull a student: 0 is where matching alone leads it, 1 all the way.

    It is the part of the way from the teacher's law to that of the real points, along that way.
    """
    rows, way = known(), ABLATIONS[name].real.statistics() - LAW.statistics()
    parts = []
    for seed in rows[name].keys() & rows[BASE].keys():
        here, there = (torch.tensor(rows[each][seed]["statistics"]) for each in (BASE, name))
        parts.append(float((there - here) @ way / way.square().sum()))
    return f"{name}: {spread(parts)} of the way to the real points"


def main() -> int:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", default="", help="run the methods whose name holds this")
    parser.add_argument("--ablate", action="store_true", help="run the changes of the GAN's rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    REWARDS["rightward"] = Rightward
    methods = ABLATIONS if arguments.ablate else METHODS
    for seed in arguments.seeds:
        for name, make in references(seed).items():
            once(name, seed, "", partial(judge, make, seed))
        for name, method in methods.items():
            if arguments.only in name:
                once(name, seed, method.mark, partial(measure, method, seed))
    print("\n".join(table([*references(0), *methods])))
    others = [name for name, each in methods.items() if each.real is not LAW]
    print("\n".join(pulled(name) for name in others if name in known()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
