"""The work of the pairs and encode jobs without a cluster."""

from pipeline.config import Config
from pipeline.data import real, shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.store import open_store
from pipeline.encode import RealMaker, real_plan
from pipeline.pairs import PairMaker, pair_plan


def make_pairs(config: Config) -> None:
    local = fetch_inputs(config, "teacher")
    plan, store = pair_plan(local), open_store(config.pairs.output, config.s3)
    shards.open_plan(store, plan)
    maker = PairMaker(local.teacher, plan, store, config.pairs.batch_size)
    for index in shards.missing(store, plan, config.pairs.count):
        maker.make(index)
    shards.close(store, plan, config.pairs.count)


def encode_images(config: Config) -> None:
    store = open_store(config.encode.output, config.s3)
    plan = real_plan(config, store)
    shards.open_plan(store, plan)
    maker = RealMaker(config, plan, store)
    for index in shards.missing(store, plan, plan.count):
        maker.make(index)
    real.close(store, plan)
