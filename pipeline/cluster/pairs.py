"""The pairs job: missing shards -> a pool of actors -> the manifest."""

from functools import partial

from pipeline.cluster import pool
from pipeline.cluster.pool import Work
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.storage import Storage, probe
from pipeline.stages.pairs import PairMaker, pair_plan
from pipeline.stages.plan import guidance_hints


def make_pairs(config: Config) -> None:
    """Make every shard that is not stored yet, then close the set; run again, it goes on.

    A finished set is only read.

    Raises:
        UserError: If the teacher cannot be loaded, the output holds another set, the store
            refuses, or no shard comes for `pairs.patience` seconds; if shards failed, after all
            others are made.
    """
    pairs, teacher = config.pairs, fetch_inputs(config, "teacher").teacher
    plan = pair_plan(teacher, pairs, config.seed)
    for hint in guidance_hints(teacher, pairs.guidance):
        print(f"pairs  {hint}")
    open_output = partial(Storage, pairs.output, config.s3, "pairs.output")
    store = open_output()
    manifest = shards.finished(store, plan, pairs.count)

    def new_maker() -> PairMaker:  # on the actor's node, with a teacher of its own
        teacher = fetch_inputs(config, "teacher").teacher
        return PairMaker(teacher, plan, open_output(), pairs)

    work = Work("pairs", "pairs", pairs, new_maker)
    if manifest is None:
        probe(store)
        pool.make_missing(store, plan, pairs.count, work)
        manifest = shards.close(store, plan, pairs.count)
    pool.report(manifest, work, pairs.output)
