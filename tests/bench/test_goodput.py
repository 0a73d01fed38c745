"""The arithmetic of docs/scale.md against what is written, and goodput against Daly's law."""

import io
import math
from pathlib import Path

import goodput
import numpy as np
import pyarrow as pa
import pytest
import scale
import torch
from goodput import Costs, daly, lives, simulate, young
from torch import nn

from pipeline.data import schema, shards
from pipeline.data.local import LocalStore
from pipeline.data.reader import PairReader
from pipeline.data.shards import PairPlan
from pipeline.data.storage import probe
from pipeline.diffusion.pairs import PairBatch
from pipeline.models.ema import ema_of
from pipeline.runs import checkpoint
from pipeline.runs.checkpoint import State
from pipeline.runs.host_copy import HostCopy

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


class CountingStore(LocalStore):
    """Counts what would be requests, and keeps the names of what is opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked = {"put": 0, "list": 0, "get": 0, "delete": 0}
        self.opened: list[str] = []

    def put(self, name, data):
        self.asked["put"] += 1
        return super().put(name, data)

    def list(self, prefix=""):
        self.asked["list"] += 1
        return super().list(prefix)

    def get(self, name):
        self.asked["get"] += 1
        return super().get(name)

    def delete(self, name):
        self.asked["delete"] += 1
        super().delete(name)

    def open(self, name):
        self.opened.append(name)
        return super().open(name)


def pairs(first: int, rows: int, shape: tuple[int, int, int]) -> PairBatch:
    ids = torch.arange(first, first + rows)
    values = torch.zeros(rows, *shape)
    return PairBatch(ids, ids % 10, values, values)


@pytest.fixture
def made(tmp_path):
    """A set of 12 shards of 4 tiny pairs, made by 3 actors in one run."""
    store, shape, count = CountingStore(tmp_path), (1, 2, 2), 48
    plan = PairPlan("teacher", 0, "heun", 5, 1.0, 4, shape, 10)
    probe(store)
    shards.open_plan(store, plan)
    todo = shards.missing(store, plan, count)
    for _ in range(3):
        shards.check_shared(store, plan)
    for index in todo:
        shards.write(store, plan, index, pairs(index * 4, 4, shape))
    shards.close(store, plan, count)
    return store


@pytest.mark.parametrize("nodes", [1, 16, 64])
@pytest.mark.parametrize(("copy", "upload", "restart"), [(6, 24, 300), (60, 0, 45), (1, 1, 0)])
@pytest.mark.parametrize("intervals", [0.4, 1, 4])
def test_the_simulation_agrees_with_daly(nodes, copy, upload, restart, intervals):
    costs = Costs(copy, upload, restart, 86400 / nodes)
    interval = intervals * young(costs)
    assert simulate(costs, interval, lives(nodes, 86400)) == pytest.approx(
        daly(costs, interval), rel=0.01
    )


@pytest.mark.parametrize("cluster", scale.CLUSTERS, ids=lambda cluster: f"{cluster.gpus} GPUs")
def test_the_simulated_optimum_is_near_young(cluster):
    costs = goodput.costs_of(cluster, cluster.reads)
    died = lives(cluster.nodes, scale.LIFE)
    found = {each: simulate(costs, each, died) for each in goodput.INTERVALS}
    best = max(found, key=found.get)
    assert young(costs) / 1.4 < best < young(costs) * 1.4
    assert simulate(costs, young(costs), died) > found[best] - 0.002


def test_lives_are_those_of_the_first_of_all_nodes_to_die():
    died = lives(8, 800.0)
    assert died.mean() == pytest.approx(100, rel=0.02)
    assert np.median(died) == pytest.approx(100 * math.log(2), rel=0.02)


def test_the_job_ends_itself_as_often_as_computed():
    costs, interval = Costs(10, 5, 50, 100), 35.0
    died = lives(8, 800.0)
    row = ends = 0
    for short in died < 10 + 5 + 50 + interval:
        row = row + 1 if short else 0
        if row == goodput.RESTARTS:
            ends, row = ends + 1, 0
    assert goodput.time_to_the_end(costs, interval) == pytest.approx(died.sum() / ends, rel=0.02)


@pytest.mark.parametrize("shape", [scale.LATENTS, scale.PIXELS])
def test_a_row_takes_its_bytes(shape):
    stored = schema.encode(pairs(0, 240, shape), {"plan": "x"})
    assert len(stored) == pytest.approx(240 * scale.row_bytes(shape), rel=0.01)


def test_a_pair_job_asks_as_often_as_computed(made):
    assert made.asked == scale.requests(shards=12, actors=3)


def test_a_worker_reads_the_whole_set(made):
    made.opened.clear()
    reader = PairReader(made, seed=0, batch_size=2, window=4)
    for step in range(48 // 6):
        reader.batch(3 * step)  # the first of three lanes
    assert sorted(made.opened) == sorted(shard.name for shard in reader.manifest.shards)


def test_a_row_group_takes_its_requests():
    reads = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    stored = schema.encode(pairs(0, 2 * scale.GROUP, scale.LATENTS), {"plan": "x"})
    batch = schema.decode(pa.PythonFile(Counted(stored), "r"), 1, scale.LATENTS, "x", "it")
    assert batch.ids.tolist() == list(range(scale.GROUP, 2 * scale.GROUP))
    assert 1 + len(reads) == scale.GROUP_REQUESTS  # the first asks for the size


def test_a_checkpoint_takes_its_bytes(tmp_path):
    networks = {name: nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 9)) for name in "ab"}
    student, critic = networks["a"], networks["b"]
    state = State(
        {"student": student, "critic": critic, "ema": ema_of(student, 0.9)},
        {
            "student": torch.optim.AdamW(student.parameters()),
            "critic": torch.optim.AdamW(critic.parameters()),
        },
    )
    tensors = HostCopy(state).wait()
    size = scale.checkpoint_bytes(sum(each.numel() for each in student.parameters()), tensors=4)
    assert sum(each.nbytes for each in tensors.values()) == size
    checkpoint.write(tmp_path, tensors, None)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == pytest.approx(size, rel=0.01)


def test_a_ring_sends_what_is_computed():
    gpus = 4
    sums = np.arange(gpus * gpus).reshape(gpus, gpus)  # of each GPU, its part of each chunk
    whole, sent = sums.sum(axis=0), 0
    for turn in range(2 * (gpus - 1)):
        for gpu, chunk in [(gpu, (gpu - turn) % gpus) for gpu in range(gpus)]:
            gathered = turn >= gpus - 1
            there = (gpu + 1) % gpus
            sums[there, chunk] = sums[gpu, chunk] + (0 if gathered else sums[there, chunk])
        sent += 1 / gpus  # of the bytes, by each GPU
    assert (sums == whole).all()
    gradients = 2 * 4 * 1000
    assert scale.all_reduce(1000, gpus, bandwidth=1.0) == pytest.approx(sent * gradients)


def test_the_page_has_the_tables():
    page = PAGE.read_text()
    for table in [*scale.tables(), goodput.goodput_table()]:
        assert table in page
