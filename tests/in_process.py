"""The pairs job's work without a cluster."""

from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.store import open_store
from pipeline.pairs import PairMaker, pair_plan


def make_pairs(config: Config) -> None:
    local = fetch_inputs(config, "teacher")
    plan, store = pair_plan(local), open_store(config.pairs.output, config.s3)
    shards.open_plan(store, plan)
    maker = PairMaker(local.teacher, plan, store, config.pairs.batch_size)
    for index in shards.missing(store, plan, config.pairs.count):
        maker.make(index)
    shards.close(store, plan, config.pairs.count)
