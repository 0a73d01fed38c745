#!/usr/bin/env python3
"""12 million pairs and 8 to 512 GPUs on paper: the tables of docs/scale.md but the last.

    python bench/scale.py

Units are bytes and seconds unless a name says otherwise; a GB is 10^9 bytes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

PAIRS, LATENTS, PIXELS = 12_000_000, (4, 64, 64), (3, 64, 64)
PARAMETERS, TENSORS = 859_520_964, 686
"""Of Stable Diffusion 1.5's UNet: diffusers' `UNet2DConditionModel(cross_attention_dim=768)`."""
EVALUATIONS = 2 * 51
"""Network calls for a pair: 50 steps of PLMS are 51, guidance takes two for each."""
GROUP, GROUP_REQUESTS, PAGE = 256, 3, 1000
"""Rows of a row group, requests to read it, names in a page of S3's listings."""

# Assumptions, in the words of docs/scale.md.
CALLS = 100.0  # network calls a second on a GPU
STEP, STEP_GPUS, REGRESSION = 36 * 3600 / 20_000, 72, 1152  # seconds, GPUs and pairs of a step
NODE_GPUS, LIFE, REBUILD = 8, 24 * 3600.0, 45.0  # a node's GPUs and mean life; restart, no reading
COPY, STORE, STREAM = 4e9, 1e9, 100e6  # bytes/s: GPU to memory, node to or from S3, one connection
LINKS = {"NVLink, 450 GB/s": 450e9, "400 Gb/s": 50e9, "200 Gb/s": 25e9, "25 Gb/s": 3.125e9}


def row_bytes(shape: tuple[int, int, int]) -> int:
    """A stored pair: float16 noise and image, int64 id, int32 label."""
    return 2 * 2 * math.prod(shape) + 8 + 4


def requests(shards: int, actors: int) -> dict[str, int]:
    """S3 requests of a pair job that runs once: probe, plan, listing, actors, shards, manifest."""
    lists = 1 + actors + math.ceil(shards / PAGE)
    return {"put": 2 + 1 + shards + 1, "list": lists, "get": actors, "delete": 1}


def checkpoint_bytes(parameters: int, tensors: int) -> int:
    """Student, critic, average and two moments for each of the first two, all float32.

    With them go AdamW's count of updates for every tensor, and the average's own.
    """
    return 4 * (3 + 2 * 2) * parameters + 4 * 2 * tensors + 8


def all_reduce(parameters: int, gpus: int, bandwidth: float) -> float:
    """Seconds in which a ring sums the float32 gradients of student and critic."""
    return 2 * (gpus - 1) / gpus * 2 * 4 * parameters / bandwidth


SIZE = checkpoint_bytes(PARAMETERS, TENSORS)
"""Of our checkpoint."""


@dataclass(frozen=True)
class Cluster:
    """GPUs on nodes of `NODE_GPUS`, training with checkpoints of `SIZE` on S3, not sharded."""

    gpus: int

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.gpus // NODE_GPUS

    @property
    def mtbf(self) -> float:
        """Mean time between deaths of a node."""
        return LIFE / self.nodes

    @property
    def step(self) -> float:
        """Computation of a step: the same batch, shared out."""
        return STEP * STEP_GPUS / self.gpus

    @property
    def copy(self) -> float:
        """For which training stops at a checkpoint: every worker copies all of the state."""
        return SIZE / COPY

    @property
    def upload(self) -> float:
        """From the copy to a stored checkpoint: every worker stores its share."""
        return SIZE / self.nodes / STORE

    @property
    def reads(self) -> int:
        """Times a checkpoint is read in turn: driver, first worker, each of a node's."""
        return 1 + 1 + (NODE_GPUS if self.nodes > 1 else NODE_GPUS - 1)

    def restart(self, reads: int) -> float:
        """From a death until training goes on, the checkpoint read so many times in turn."""
        return REBUILD + reads * SIZE / STORE


CLUSTERS = [Cluster(gpus) for gpus in (8, 32, 128, 512)]


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Markdown."""
    rule = "|" + "---|" * (head.count("|") - 1)
    return "\n".join([head, rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def set_table() -> str:
    """The pair set."""
    rows = []
    for name, shape in (("latents", LATENTS), ("pixels", PIXELS)):
        size = row_bytes(shape)
        rows.append((name, "x".join(map(str, shape)), f"{size:,}", f"{PAIRS * size / 1e9:.1f}"))
    return table("| | shape | bytes a row | GB |", rows)


def shard_table() -> str:
    """Shards of several sizes, made on the largest cluster; lost: work cut off by deaths."""
    rows, actors = [], CLUSTERS[-1].gpus
    for pairs in (240, 1000, 4000):
        shards, seconds = PAIRS // pairs, pairs * EVALUATIONS / CALLS
        asked = requests(shards, actors)
        kept = seconds / LIFE / math.expm1(seconds / LIFE)
        rows.append(
            (f"{pairs:,}", f"{shards:,}", f"{pairs * row_bytes(LATENTS) / 1e6:.1f}")
            + (f"{asked['put']:,}", f"{sum(asked.values()) - asked['put']:,}")
            + (f"{seconds / 60:.1f}", f"{100 * (1 - kept):.2f}%")
        )
    head = "| pairs | shards | MB | puts | other requests | minutes on a GPU | lost to deaths |"
    return table(head, rows)


def cluster_table() -> str:
    """Making pairs, and reading them in training."""
    rows = []
    for cluster in CLUSTERS:
        hours = PAIRS * EVALUATIONS / CALLS / cluster.gpus / 3600
        read = REGRESSION * row_bytes(LATENTS)
        rate = cluster.gpus * read / cluster.step / 1e9
        asked = cluster.gpus * REGRESSION / GROUP * GROUP_REQUESTS / cluster.step
        share = 100 * (read / STREAM) / (read / STREAM + cluster.step)
        rows.append(
            (cluster.gpus, f"{hours:,.1f}", f"{cluster.step:.2f}", f"{rate:.2f}")
            + (f"{asked:,.0f}", f"{share:.0f}%")
        )
    head = "| GPUs | making pairs, h | step, s | read, GB/s | requests/s | of the time, reading |"
    return table(head, rows)


def part_table() -> str:
    """What a checkpoint holds."""
    parts = {"student": 1, "critic": 1, "average": 1, "AdamW of student": 2, "AdamW of critic": 2}
    rows = [(name, f"{4 * copies * PARAMETERS / 1e9:.2f}") for name, copies in parts.items()]
    return table("| part | GB |", [*rows, (f"all: {SIZE:,} bytes", f"{SIZE / 1e9:.2f}")])


def checkpoint_table() -> str:
    """Copying, storing and reading it."""
    rows = []
    for cluster in CLUSTERS:
        share = SIZE / cluster.gpus
        rows.append(
            (cluster.gpus, f"{cluster.copy:.1f}", f"{share / COPY:.2f}")
            + (f"{NODE_GPUS * SIZE / 1e9:.1f}", f"{NODE_GPUS * share / 1e9:.2f}")
            + (f"{cluster.upload:.1f}", f"{cluster.restart(cluster.reads):.0f}")
            + (f"{(1 + cluster.gpus) * SIZE / 1e12:.2f}",)
        )
    head = (
        "| GPUs | copy, s | sharded, s | copies on a node, GB | sharded, GB | upload, s "
        "| restart, s | read at it, TB |"
    )
    return table(head, rows)


def all_reduce_table() -> str:
    """Seconds a step, and their share of the step if nothing of them is hidden."""
    rows = []
    for cluster in CLUSTERS:
        times = [all_reduce(PARAMETERS, cluster.gpus, rate) for rate in LINKS.values()]
        cells = [f"{time:.2f} s, {100 * time / (time + cluster.step):.0f}%" for time in times]
        rows.append((cluster.gpus, f"{cluster.step:.2f}", *cells))
    return table(f"| GPUs | step, s | {' | '.join(LINKS)} |", rows)


def tables() -> list[str]:
    """In the order of the page."""
    return [
        set_table(),
        shard_table(),
        cluster_table(),
        part_table(),
        checkpoint_table(),
        all_reduce_table(),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables()))
