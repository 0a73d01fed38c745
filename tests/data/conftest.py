"""A small pair set for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from pipeline.config import S3Config
from pipeline.data import s3, shards
from pipeline.data.local import LocalStore
from pipeline.data.plans import PairPlan
from pipeline.data.schema import storable
from pipeline.data.storage import Storage
from pipeline.diffusion.pairs import PairBatch


class Tiny:
    """Makes plans, batches and whole sets of 1x2x2 pairs."""

    def plan(self, **changes: object) -> PairPlan:
        """600 ids a shard: row groups of 256, 256 and 88."""
        values = {
            "teacher": "abc",
            "seed": 0,
            "solver": "heun",
            "steps": 18,
            "guidance": 1.0,
            "shard_size": 600,
            "shape": (1, 2, 2),
            "classes": 10,
        }
        return PairPlan(**{**values, **changes})

    def batch(self, plan: PairPlan, index: int) -> PairBatch:
        """Pairs whose noise holds their own id, and whose image is the negative."""
        ids = shards.ids(plan, index)
        shape = plan.shape_of(int(ids[0]))
        noise = storable(ids.float().view(-1, *(1,) * len(shape)).repeat(1, *shape) / 2048)
        return PairBatch(ids, shards.labels(plan, ids), noise, -noise)

    def fill(self, folder: Path, plan: PairPlan, count: int) -> LocalStore:
        """A closed set."""
        store = LocalStore(folder)
        shards.open_plan(store, plan)
        for index in shards.missing(store, plan, count):
            shards.write(store, plan, index, self.batch(plan, index))
        shards.close(store, plan, count)
        return store


@pytest.fixture
def tiny() -> Tiny:
    """The maker of small sets."""
    return Tiny()


@pytest.fixture
def pairs(tiny: Tiny, tmp_path: Path) -> LocalStore:
    """A closed set of 1800 pairs in 3 shards."""
    return tiny.fill(tmp_path / "pairs", tiny.plan(), 1800)


@pytest.fixture
def s3_store(monkeypatch) -> Iterator[Storage]:
    """A place in moto's S3, in this process."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-see")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setattr(s3.time, "sleep", lambda _: None)
    with mock_aws():
        s3._connect.cache_clear()
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        found = Storage("s3://bucket/some/set/", S3Config(region="us-east-1"), "pairs.output")
        yield found
    s3._connect.cache_clear()
