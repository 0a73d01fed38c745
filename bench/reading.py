#!/usr/bin/env python3
"""What checking each row group costs: `PairReader.batch` over a set.

    python bench/reading.py

A line for each shape, of an epoch checked to unchecked: by the time that the checks take, read
from the disk (whole time; root alone can measure it) and from the page cache (CPU time); by the
median of 7 pairs in alternating order, which other work on the machine disturbs more; and the same
for Parquet's own checksums of pages.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.data import schema, shards  # noqa: E402
from pipeline.data.checksums import checksum  # noqa: E402
from pipeline.data.local import LocalStore  # noqa: E402
from pipeline.data.plans import PairPlan  # noqa: E402
from pipeline.data.reader import PairReader  # noqa: E402
from pipeline.diffusion.pairs import PairBatch  # noqa: E402

SHAPES = (4, 64, 64), (3, 64, 64)
ROWS, BATCH, PAIRS, BAR = 1024, 64, 7, 1.03
CACHES = Path("/proc/sys/vm/drop_caches")


def make(folder: Path, shape: tuple[int, int, int]) -> LocalStore:
    """A closed set of two shards, which has checksums of pages as well."""
    store, plan = LocalStore(folder), PairPlan("bench", 0, "heun", 18, 1.0, ROWS, shape, 10)
    writer = partial(pq.ParquetWriter, write_page_checksum=True)
    with mock.patch.object(pq, "ParquetWriter", writer):
        for index in range(2):
            ids = shards.ids(plan, index)
            noise = torch.randn(ROWS, *shape).half()
            shards.write(store, plan, index, PairBatch(ids, shards.labels(plan, ids), noise, noise))
    shards.close(store, plan, 2 * ROWS)
    return store


def read_unchecked(file: pa.NativeFile, group: int, plan: str, name: str) -> pa.Table:
    """As `schema.read_group`, which checks what it reads."""
    shard = pq.ParquetFile(file)
    assert schema.footer(shard)["plan"] == plan, name
    return shard.read_row_group(group, use_threads=False)


def unchecked() -> mock._patch:
    """No check."""
    return mock.patch.object(schema, "read_group", read_unchecked)


@contextmanager
def by_pages() -> Iterator[None]:
    """Parquet's own check instead."""
    checking = partial(pq.ParquetFile, page_checksum_verification=True)
    with unchecked(), mock.patch.object(pq, "ParquetFile", checking):
        yield


def seconds(
    store: LocalStore, how: Callable, clock: Callable[[], float] = time.process_time
) -> float:
    """Time of one epoch, of the CPU unless a clock is given."""
    reader = PairReader(store, 0, BATCH)
    with how():
        start = clock()
        for index in range(2 * ROWS // BATCH):
            reader.batch(index)
        return clock() - start


def ratio(store: LocalStore, how: Callable) -> float:
    """The median of the ratios to reading unchecked."""
    ratios = []
    for number in range(PAIRS):
        order = [unchecked, how][:: -1 if number % 2 else 1]
        taken = {each: seconds(store, each) for each in order}
        ratios.append(taken[how] / taken[unchecked])
    return statistics.median(ratios)


def drop_cache() -> None:
    """Have files read from the disk again; root alone may."""
    os.sync()
    CACHES.write_text("3")


def share(store: LocalStore, cold: bool = False) -> float:
    """An epoch, by the same without what the checks themselves take of it; the median of 7.

    Of CPU time with the files in the page cache; cold: of the whole time, read from the disk.
    """
    spent, ratios = [0.0], []
    clock = time.perf_counter if cold else time.process_time

    def timed(table: pa.Table) -> str:
        start = clock()
        found = checksum(table)
        spent[0] += clock() - start
        return found

    with mock.patch.object(schema, "checksum", timed):
        for _ in range(PAIRS):
            spent[0] = 0
            if cold:
                drop_cache()
            taken = seconds(store, nullcontext, clock)
            ratios.append(taken / (taken - spent[0]))
    return statistics.median(ratios)


def main() -> int:
    """Measure and print; 0 if the bar holds for what is read from the disk."""
    torch.set_num_threads(1)
    shares, cold = [], os.access(CACHES, os.W_OK)
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            store = make(Path(folder), shape)
            seconds(store, nullcontext)
            cached = share(store)
            shares.append(share(store, cold=True) if cold else cached)
            pairs, pages = ratio(store, nullcontext), ratio(store, by_pages)
        disk = f"{shares[-1]:.3f}" if cold else "not measured (needs root)"
        name = "x".join(map(str, shape))
        print(f"{name}: disk {disk}, cached {cached:.3f}, in pairs {pairs:.3f}; pages {pages:.3f}")
    print(f"bar <= {BAR}: {'holds' if max(shares) <= BAR else 'MISSED'}")
    return 0 if max(shares) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
