"""The embed job: missing shards of conditions -> a pool of actors -> the manifest."""

from functools import partial

from pipeline.cluster import pool
from pipeline.cluster.pool import Work
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.storage import Storage, probe
from pipeline.models.encoders import condition_plan
from pipeline.stages.embed import ConditionMaker


def embed_prompts(config: Config) -> None:
    """Make every shard that is not stored yet, then close the set; run again, it goes on.

    A finished set is only read.

    Raises:
        UserError: If the teacher cannot be read or takes no prompts, the output holds another set,
            the store refuses, or no shard comes for `embed.patience` seconds; if shards failed,
            after all others are made.
    """
    embed = config.embed
    teacher = fetch_inputs(config, "teacher").teacher
    plan = condition_plan(teacher, embed.precision, embed.shard_size)
    open_output = partial(Storage, embed.output, config.s3, "embed.output")
    store = open_output()
    manifest = shards.finished(store, plan, plan.rows)

    def new_maker() -> ConditionMaker:  # on the actor's node, with encoders of its own
        return ConditionMaker(fetch_inputs(config, "teacher").teacher, plan, open_output())

    work = Work("embed", "conditions", embed, new_maker)
    if manifest is None:
        probe(store)
        pool.make_missing(store, plan, plan.rows, work)
        manifest = shards.close(store, plan, plan.rows)
    pool.report(manifest, work, embed.output)
