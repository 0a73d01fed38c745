"""Long proofs of the pairs job: many crashes, many shards, many pairs."""

import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.data.local import LocalStore
from pipeline.data.s3 import _connect
from pipeline.data.storage import Store
from tests.cluster.job import Job
from tests.cluster.test_s3_server import open_set, server  # noqa: F401

pytestmark = [pytest.mark.cluster, pytest.mark.prove, pytest.mark.timeout(1800)]

EXACT = ["--config", "configs/gaussian.yaml", "--s3.region", "us-east-1", "--pairs.steps", "2"]


def peak(job: Job, seconds: float = 1200) -> float:
    """Most memory the driver held, in MiB, once it has ended well."""
    status, held = Path(f"/proc/{job.process.pid}/status"), 0.0
    end = time.monotonic() + seconds
    while job.process.poll() is None:
        assert time.monotonic() < end, job.tail()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()):
            held = int(found[1]) / 1024
        time.sleep(0.1)
    job.finish()
    return held


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_any_call_may_die(kind, server, start, tmp_path):  # noqa: F811
    """Every seventh call of an actor dies, and the driver twice: the set is a clean run's."""
    counts = [*EXACT, "--pairs.count", "600", "--pairs.shard_size", "5"]
    start("jobs/pairs.py", *counts, "--run", str(tmp_path / "clean")).finish()
    clean = LocalStore(tmp_path / "clean" / "pairs")
    store: Store = LocalStore(tmp_path / "local" / "pairs")
    if kind == "s3":
        store = open_set(server, "chance")
    marks = tmp_path / "marks"
    marks.mkdir()
    command = ["tests/cluster/crashing_pairs.py", str(marks), *counts, "--run", str(tmp_path)]
    command += ["--pairs.output", store.uri(""), "--s3.endpoint", server]
    for _ in range(2):
        before = len(store.list("pairs-"))
        least = before + random.randint(10, 40)
        job = start(*command, CRASH_SHARE="0.15")
        job.wait_for(lambda least=least: len(store.list("pairs-")) >= least, 400)
        job.kill()
        assert least <= len(store.list("pairs-")) < 120, "killed in the middle"
    start(*command, CRASH_SHARE="0.15").finish(seconds=600)
    calls = [mark.name.split("-")[1] for mark in marks.iterdir()]
    died = len(calls) - calls.count("None")
    print(f"{kind}: {died} of {len(calls)} calls died")
    assert died >= 0.1 * len(calls)
    assert {"before", "during", "after"} <= set(calls)
    assert list(store.list()) == list(clean.list())
    assert all(store.get(name) == clean.get(name) for name in clean.list())


def test_50_000_shards_of_which_most_are_there(server, start, tmp_path):  # noqa: F811
    """Planning, resuming and closing take at most 60 s more than those of ten shards."""
    client, found = _connect(server, "us-east-1", None), {}
    for shards, made in (("ten", 10), ("many", 50_000)):
        prefix = f"{shards}/"
        todo = set(random.Random(0).sample(range(made), min(made, 2500)))
        names = {i: f"pairs-{240 * i:012d}-{240 * (i + 1):012d}.parquet" for i in range(made)}

        def put(index: int, prefix: str = prefix, names: dict[int, str] = names) -> None:
            client.put_object(Bucket="bucket", Key=prefix + names[index], Body=b"x")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, [index for index in range(made) if index not in todo]))
        command = ["--pairs.count", str(240 * made), "--pairs.shard_size", "240"]
        command += ["--run", str(tmp_path / shards), "--pairs.output", f"s3://bucket/{shards}"]
        begin = time.time()
        job = start("jobs/pairs.py", *EXACT, *command, "--s3.endpoint", server)
        memory, end = peak(job), time.time()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        times = {each["Key"]: each["LastModified"] for page in pages for each in page["Contents"]}
        work = [times[prefix + names[index]].timestamp() for index in todo]
        found[shards] = (min(work) - begin + end - max(work), memory)
        print(
            f"{shards}: {len(todo)} of {made} shards made in {max(work) - min(work):.0f} s, "
            f"{found[shards][0]:.0f} s beside it, driver {memory:.0f} MiB; "
            f"{job.log.read_text().splitlines()[-1]}"
        )
    assert found["many"][0] <= found["ten"][0] + 60
    assert found["many"][1] <= 1.3 * found["ten"][1]


def test_ten_times_the_pairs_take_the_drivers_same_memory(start, tmp_path):
    held = {}
    for count in (20_000, 200_000):
        size = ["--teacher.gaussian.shape", "[3,32,32]", "--pairs.shard_size", "1000"]
        job = start(
            *("jobs/pairs.py", *EXACT, *size, "--pairs.count", str(count)),
            *("--run", str(tmp_path / str(count))),
        )
        held[count] = peak(job)
        print(f"{count} pairs: driver {held[count]:.0f} MiB")
    assert held[200_000] <= 1.3 * held[20_000]
