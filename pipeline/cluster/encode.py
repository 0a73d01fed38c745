"""The encode job: a listed source -> missing shards -> a pool of actors -> the manifest."""

from functools import partial

from pipeline.cluster import pool
from pipeline.cluster.pool import Work
from pipeline.config import Config
from pipeline.data import real, shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.storage import Storage, probe
from pipeline.stages.encode import RealMaker, real_plan


def encode_images(config: Config) -> None:
    """Make every shard that is not stored yet, then close the set; run again, it goes on.

    Images that cannot be read are left out, counted and named. A finished set is only read. The
    teacher's prompts are not: the set's own captions may become them.

    Raises:
        UserError: If the teacher cannot be loaded, the source is missing, incomplete or changed,
            the output holds another set, a store refuses, or no shard comes for `encode.patience`
            seconds; if shards failed, or more than `encode.max_damaged` of the images cannot be
            read, after all others are made.
    """
    teacher = config.teacher.model_copy(update={"prompts": None, "prompt_images": ()})
    config, encode = config.model_copy(update={"teacher": teacher}), config.encode
    open_output = partial(Storage, encode.output, config.s3, "encode.output")
    store = open_output()
    if not store.list("manifest-"):  # before the source is listed, which writes
        probe(store)
    plan = real_plan(fetch_inputs(config, "teacher"), store)
    source = str(encode.source), config.s3

    def new_maker() -> RealMaker:  # on the actor's node, with a VAE of its own
        return RealMaker(fetch_inputs(config, "teacher").teacher, source, plan, open_output())

    work = Work("encode", "images", encode, new_maker)
    manifest = shards.finished(store, plan, plan.count)
    if manifest is None:
        pool.make_missing(store, plan, plan.count, work)
        manifest = real.close(store, plan, encode.max_damaged)
    else:
        real.check_share(store, plan.count, encode.max_damaged)
    pool.report(manifest, work, encode.output)
    if damaged := list(real.damaged(store)):
        first = damaged[0]
        print(
            f"encode  {len(damaged)} of {plan.count} images cannot be read and are left out, the "
            f"first {first.image} (id {first.id}): {first.reason}; all: damaged-*.json"
        )
