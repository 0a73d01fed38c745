#!/usr/bin/env python3
"""Goodput on spot nodes against the checkpoint interval: simulated deaths beside Daly's formula.

    python bench/goodput.py [--picture docs/goodput.png]

Prints the last table of docs/scale.md; sizes and speeds are those of bench/scale.py. Goodput is the
share of the time whose work is kept. Times are seconds.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scale import CLUSTERS, LIFE, SIZE, Cluster, table

RESTARTS = 3
"""Deaths in a row without a new checkpoint that end the job (`pipeline.cluster.distill`)."""
INTERVALS = np.geomspace(30, 7200, 49)

FINE, WIDTH, HEIGHT = 3, 920, 540
"""The picture's size; it is drawn three times as large and then reduced, for smooth lines."""
LEFT, TOP, RIGHT, BOTTOM = 60, 46, 810, 470
DOT, RING = 4 * FINE, 9 * FINE
COLOURS = [(59, 82, 139), (33, 145, 140), (200, 130, 0), (180, 40, 60)]
INK, GREY = (60, 60, 60), (225, 225, 225)
TICKS = {30: "30 s", 60: "1 min", 120: "2 min", 300: "5 min", 600: "10 min", 1800: "30 min"}
TICKS |= {3600: "1 h", 7200: "2 h"}


@dataclass(frozen=True)
class Costs:
    """What interrupts training.

    Attributes:
        copy: For which training stops at a checkpoint, C.
        upload: Until the copy is stored, beside training, U.
        restart: From a death until training goes on, R; a death in it begins it again.
        mtbf: Mean time between deaths in the whole cluster, M.
    """

    copy: float
    upload: float
    restart: float
    mtbf: float


def costs_of(cluster: Cluster, reads: int) -> Costs:
    """Of a cluster whose restart reads the checkpoint so many times in turn."""
    return Costs(cluster.copy, cluster.upload, cluster.restart(reads), cluster.mtbf)


def young(costs: Costs) -> float:
    """The best interval between checkpoints, to first order: Young (1974)."""
    return math.sqrt(2 * costs.copy * costs.mtbf)


def daly(costs: Costs, interval: float) -> float:
    """Goodput T_s / T_w, with T_w = M exp(R / M) (exp((T + C) / M) - 1) T_s / T: Daly (2006).

    A death takes the checkpoint on its way along, so that each life of the group loses U as it
    loses R: their sum stands for R. The interval T of training is at least U.
    """
    lost = math.exp((costs.restart + costs.upload) / costs.mtbf)
    return interval / (costs.mtbf * lost * math.expm1((interval + costs.copy) / costs.mtbf))


def lives(nodes: int, life: float, deaths: int = 200_000) -> np.ndarray:
    """Times between deaths in a cluster: each node lives exponentially long and is replaced."""
    uniform = np.random.default_rng(0).random((nodes, deaths // nodes))
    times = np.cumsum(-life * np.log1p(-uniform), axis=1)
    return np.diff(np.sort(times[times <= times[:, -1].min()]), prepend=0.0)


def simulate(costs: Costs, interval: float, lives: np.ndarray) -> float:
    """Goodput: in every life a restart, then as many checkpoints as are stored before its end."""
    trained = np.maximum(lives - costs.restart - costs.upload, 0)
    return float(interval * np.floor(trained / (interval + costs.copy)).sum() / lives.sum())


def time_to_the_end(costs: Costs, interval: float) -> float:
    """Mean time until `RESTARTS` lives in a row are too short for a checkpoint."""
    needed = costs.restart + interval + costs.copy + costs.upload
    short = -math.expm1(-needed / costs.mtbf)
    return costs.mtbf * (1 - short**RESTARTS) / ((1 - short) * short**RESTARTS)


def goodput_table() -> str:
    """Every cluster at Young's interval: as it is, and if a restart read the checkpoint once."""
    rows = []
    for cluster in CLUSTERS:
        costs, once = costs_of(cluster, cluster.reads), costs_of(cluster, 1)
        died, interval = lives(cluster.nodes, LIFE), young(costs)
        best = max(INTERVALS, key=lambda each: simulate(costs, each, died))
        rows.append(
            (cluster.gpus, f"{costs.mtbf / 60:,.1f}", f"{costs.restart:.0f}")
            + (f"{interval:.0f} s, {interval / cluster.step:.0f} steps", f"{best:.0f}")
            + (f"{daly(costs, interval):.3f}", f"{simulate(costs, interval, died):.3f}")
            + (f"{simulate(once, interval, died):.3f}", f"{SIZE / interval / 1e6:.0f}")
            + (f"{time_to_the_end(costs, interval) / 86400:,.0f}",)
        )
    head = (
        "| GPUs | M, min | R, s | Young | best simulated, s | Daly | simulated | read once "
        "| stored, MB/s | ends itself, days |"
    )
    return table(head, rows)


def main() -> None:
    """Print the table; draw the curves if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="PNG of goodput against the interval")
    arguments = parser.parse_args()
    print(goodput_table())
    if arguments.picture:
        draw(arguments.picture)


def at(interval: float, goodput: float) -> tuple[float, float]:
    """Where a point of a curve lies on the enlarged picture."""
    low, high = np.log(INTERVALS[[0, -1]])
    x = LEFT + (RIGHT - LEFT) * (math.log(interval) - low) / (high - low)
    return FINE * x, FINE * (BOTTOM + (TOP - BOTTOM) * goodput)


def draw(path: Path) -> None:
    """Daly's formula as lines, the simulation as dots, Young's interval as a ring."""
    page = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(FINE * 15)
    for goodput in np.linspace(0, 1, 6):
        x, y = at(INTERVALS[0], goodput)
        pen.line([(x, y), at(INTERVALS[-1], goodput)], GREY, FINE)
        pen.text((x - FINE * 10, y), f"{goodput:.1f}", INK, font, anchor="rm")
    for interval, text in TICKS.items():
        x, y = at(interval, 0)
        pen.line([(x, y), at(interval, 1)], GREY, FINE)
        pen.text((x, y + FINE * 10), text, INK, font, anchor="ma")
    middle = FINE * (LEFT + RIGHT) / 2
    pen.text((middle, FINE * (HEIGHT - 12)), "training between checkpoints", INK, font, anchor="ms")
    pen.text((FINE * 12, FINE * 10), "goodput", INK, font)
    x, y = at(INTERVALS[1], 0.3)
    for row, text in enumerate(("Daly's formula", "simulated", "Young's interval")):
        pen.text((x + FINE * 44, y + row * FINE * 28), text, INK, font, anchor="lm")
    pen.line([(x, y), (x + FINE * 32, y)], INK, 2 * FINE)
    pen.circle((x + FINE * 16, y + FINE * 28), DOT, INK)
    pen.circle((x + FINE * 16, y + FINE * 56), RING, None, INK, 2 * FINE)
    for cluster, colour in zip(CLUSTERS, COLOURS, strict=True):
        costs, died = costs_of(cluster, cluster.reads), lives(cluster.nodes, LIFE)
        curve = [at(each, daly(costs, each)) for each in INTERVALS]
        pen.line(curve, colour, 2 * FINE, joint="curve")
        for each in INTERVALS[::4]:
            pen.circle(at(each, simulate(costs, each, died)), DOT, colour)
        best = young(costs)
        pen.circle(at(best, daly(costs, best)), RING, None, colour, 2 * FINE)
        x, y = curve[-1]
        pen.text((x + FINE * 12, y), f"{cluster.gpus} GPUs", colour, font, anchor="lm")
    page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, optimize=True)


if __name__ == "__main__":
    main()
