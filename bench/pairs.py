#!/usr/bin/env python3
"""What making pairs costs beside the teacher's own calls, side by side in one run.

Prints, each beside its bar:

- efficiency: time inside the teacher's calls over the time of a `PairMaker` making shards, with
  35 calls of 0.5 s to a shard of 256; and the same for a bare loop of the solver, in turn;
- fixed cost: CPU time of a shard beside the teacher's calls;
- bytes: a row on disk over its raw float16 payload;
- reading: rows a second of fixed-size binary columns over those of tensor-extension columns;
- a huge plan: planning and closing 50,000 shards, half of them there already, and the memory.

    python bench/pairs.py
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.config import Config
from pipeline.data import schema, shards
from pipeline.data.local import LocalStore
from pipeline.diffusion import seeds
from pipeline.diffusion.pairs import PairBatch
from pipeline.models.sampling import sample_teacher
from pipeline.stages.pairs import PairMaker, pair_plan

SHAPE, ROWS, ROUNDS = (3, 32, 32), 256, 2


def configure(delay: float, rows: int) -> Config:
    """An analytic teacher whose calls take `delay` seconds."""
    gaussian = {"shape": list(SHAPE), "classes": 10}
    return Config.model_validate(
        {
            "data": {"name": None},
            "teacher": {"kind": "gaussian", "delay": delay, "gaussian": gaussian},
            "pairs": {"count": rows, "shard_size": rows, "batch_size": rows}
            | {"solver": "heun", "steps": 18},
        }
    )


class Timed:
    """Seconds and CPU seconds spent inside a teacher."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        self.seconds = self.cpu = 0.0
        teacher.register_forward_pre_hook(lambda *_: self._add(-1))
        teacher.register_forward_hook(lambda *_: self._add(1))

    def _add(self, sign: int) -> None:
        self.seconds += sign * time.perf_counter()
        self.cpu += sign * time.process_time()


def new_maker(folder: Path, delay: float, rows: int) -> PairMaker:
    """A maker of a new set, its teacher loaded."""
    config = configure(delay, rows)
    plan, store = pair_plan(config.teacher, config.pairs, config.seed), LocalStore(folder)
    shards.open_plan(store, plan)
    maker = PairMaker(config.teacher, plan, store, config.pairs)
    maker.make(0)
    return maker


def efficiency(folder: Path) -> tuple[float, float]:
    """Share of the time that the teacher's calls take: of the maker, and of a bare loop."""
    maker = new_maker(folder, 0.5, ROWS)
    plan, timed = maker.plan, Timed(maker.teacher)

    def bare(index: int) -> None:
        ids = shards.ids(plan, index)
        noise = torch.randn(len(ids), *SHAPE)
        sample_teacher(maker.teacher, noise, ids % 10, plan.solver, plan.steps, plan.guided)

    shares: dict[str, list[float]] = {"maker": [], "bare": []}
    for index in range(1, ROUNDS + 1):
        for name, make in (("maker", maker.make), ("bare", bare)):
            before, start = timed.seconds, time.perf_counter()
            make(index)
            shares[name].append((timed.seconds - before) / (time.perf_counter() - start))
    return statistics.median(shares["maker"]), statistics.median(shares["bare"])


def fixed_cost(folder: Path) -> float:
    """CPU milliseconds of a shard of one row, less the teacher's."""
    maker = new_maker(folder, 0.0, 1)
    timed, start, calls = Timed(maker.teacher), time.process_time(), 200
    for index in range(1, calls + 1):
        maker.make(index)
    return (time.process_time() - start - timed.cpu) / calls * 1000


def example(rows: int) -> PairBatch:
    """Pairs of noise."""
    ids = torch.arange(rows)
    noise = seeds.noise(0, ids, SHAPE, stream=seeds.PAIRS)
    return PairBatch(ids, ids % 10, noise, noise)


def overhead() -> float:
    """Bytes of a stored row over its payload, less 1."""
    payload = 2 * 2 * np.prod(SHAPE)
    return len(schema.encode(example(1024), {"plan": "x"})) / (1024 * payload) - 1


def reading() -> float:
    """How much faster the layout is read into tensors than tensor-extension columns."""
    batch = example(2048)
    stored = schema.encode(batch, {"plan": "x"})
    tensor = pa.fixed_shape_tensor(pa.float16(), SHAPE)
    flat = pa.array(batch.noise.half().flatten().numpy())
    column = pa.ExtensionArray.from_storage(
        tensor, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(SHAPE)))
    )
    sink = pa.BufferOutputStream()
    table = pa.table({"sample_id": batch.ids.numpy(), "noise": column, "image": column})
    pq.write_table(table, sink, compression="NONE", use_dictionary=False)
    other = sink.getvalue()

    def ours() -> None:
        for group in range(len(batch.ids) // schema.GROUP):
            schema.decode(pa.BufferReader(stored), group, SHAPE, "x", "it")

    def theirs() -> None:
        read = pq.read_table(pa.BufferReader(other), use_threads=False).combine_chunks()
        for name in ("noise", "image"):
            read[name].chunk(0).to_numpy_ndarray()

    return seconds(theirs) / seconds(ours)


def huge_plan(folder: Path, count: int = 50_000) -> tuple[float, float]:
    """Seconds and MiB of planning and closing a set of so many shards, which all are one file."""
    maker = new_maker(folder, 0.0, 240)
    plan, store = maker.plan, LocalStore(folder)
    one = next(iter(store.list("pairs-")))

    def fill(indices: range) -> None:
        for first in (index * 240 for index in indices):
            os.link(folder / one, folder / f"pairs-{first:012d}-{first + 240:012d}.parquet")

    fill(range(1, count // 2))
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    todo = shards.missing(store, plan, count * 240)
    taken = time.perf_counter() - start
    assert todo == list(range(count // 2, count))
    fill(range(count // 2, count))
    start = time.perf_counter()
    shards.close(store, plan, count * 240)
    manifest = shards.read_manifest(store)
    shards.check_stored(store, manifest)
    taken += time.perf_counter() - start
    assert len(manifest.shards) == count
    return taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024


def seconds(work: Callable[[], None], times: int = 7) -> float:
    """Median time of a call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> int:
    """Measure and print; 0 if every bar holds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        plan_seconds, plan_memory = huge_plan(Path(folder) / "huge")  # first: it looks at the peak
        made, bare = efficiency(Path(folder) / "slow")
        cost = fixed_cost(Path(folder) / "fast")
    extra, faster = overhead(), reading()
    results = [
        (f"efficiency {made:.4f} (bare loop {bare:.4f})", ">= 0.97", made >= 0.97),
        (f"fixed cost {cost:.1f} ms CPU a shard", "<= 10", cost <= 10),
        (f"bytes {100 * extra:.2f}% over the payload", "<= 1%", extra <= 0.01),
        (f"50,000 shards planned and closed in {plan_seconds:.1f} s", "<= 60", plan_seconds <= 60),
        (f"50,000 shards took {plan_memory:.0f} MiB", "<= 200", plan_memory <= 200),
        (f"reading {faster:.1f} times as fast as tensor columns", ">= 5", faster >= 5),
    ]
    for text, bar, holds in results:
        print(f"{text}   bar {bar}: {'holds' if holds else 'MISSED'}")
    return 0 if all(holds for *_, holds in results) else 1


if __name__ == "__main__":
    sys.exit(main())
