"""Both jobs on a cluster that grows for them and shrinks after them."""

from pathlib import Path

import pytest

from pipeline.cli import load
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Storage
from pipeline.runs.run import Run
from tests.cluster.autoscaled import autoscaled
from tests.cluster.test_training import settings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_the_cluster_grows_for_pairs_and_training_and_shrinks_after(tmp_path: Path, start) -> None:
    more = {"pairs__count": 400, "pairs__shard_size": 10, "teacher__delay": 0.25}
    more |= {"pairs__actors__min": 1, "pairs__actors__max": 2, "distill__steps": 150}
    flags = settings(tmp_path / "run", 2, **more, distill__workers__min=1)
    config = load(flags)
    store = Storage(config.pairs.output, config.s3, "pairs.output")

    def shards() -> int:
        return sum(name.endswith(".parquet") for name in store.list())

    with autoscaled(tmp_path, most=2) as cluster:
        assert cluster.nodes() == 0
        pairs = start("jobs/pairs.py", *flags, RAY_ADDRESS=cluster.address)
        cluster.wait_for(2)
        pairs.wait_for(lambda: shards() >= 10)
        cluster.raylets()[0].kill()
        cluster.wait_for(1)
        cluster.wait_for(2)
        pairs.finish()
        manifest = read_manifest(store)
        assert [shard.first for shard in manifest.shards] == list(range(0, 400, 10)), "no row lost"
        cluster.wait_for(0)

        cluster.give(1)
        flags += ["--teacher.delay", "0"]
        job = start("-m", "tests.cluster.resizing_distill", *flags, RAY_ADDRESS=cluster.address)
        job.wait_for(lambda: len(Run(config).checkpoints.commits()) > 0)
        assert cluster.nodes() == 1, "starts with the least it may"
        cluster.give(2)
        cluster.wait_for(2)
        job.finish()
        sizes = [len(commit.files) for commit in Run(config).checkpoints.commits()]
        assert sizes[0] == 2, "grown while it trained"
        cluster.wait_for(0)
    assert [count for _, count in cluster.counts if count == 2], cluster.counts
