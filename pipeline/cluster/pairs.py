"""The pairs job: missing shards -> a pool of Ray Data actors -> the manifest."""

from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.cluster.session import connect, user_errors
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.shards import PairPlan
from pipeline.data.store import Store, open_store, probe
from pipeline.pairs import PairMaker, pair_plan
from pipeline.progress import progress

WAVE = 2000
"""Shards handed to Ray at once: planning more would take its driver time and memory."""


def make_pairs(config: Config) -> None:
    """Make every shard that is not stored yet, then close the set; run again, it goes on.

    Raises:
        UserError: If the teacher cannot be loaded, the output holds another set, or the store
            refuses.
    """
    pairs, plan, store = config.pairs, pair_plan(config), _store(config)
    probe(store)
    shards.open_plan(store, plan)
    todo = shards.missing(store, plan, pairs.count)
    done = pairs.count - len(todo) * plan.shard_size
    with progress(pairs.count, "pairs", "pairs", start=done) as bar, user_errors():
        for first in range(0, len(todo), WAVE):
            for _ in _make(todo[first : first + WAVE], plan, config):
                bar.update(plan.shard_size)
    manifest = shards.close(store, plan, pairs.count)
    size = sum(shard.bytes for shard in manifest.shards)
    print(
        f"pairs  {manifest.count} pairs in {len(manifest.shards)} shards, {size:,} bytes: "
        f"{pairs.output}"
    )


def _make(todo: list[int], plan: PairPlan, config: Config) -> Any:
    """Rows that come in as the actors finish shards."""
    connect()
    actors = config.pairs.actors
    DataContext.get_current().enable_progress_bars = False
    return (
        ray.data.from_items([{"index": index} for index in todo], override_num_blocks=len(todo))
        .map_batches(
            _Maker,
            fn_constructor_args=(plan, config),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=actors.min, max_size=actors.max),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
        )
        .iter_rows()
    )


def _store(config: Config) -> Store:
    return open_store(config.pairs.output, config.s3)


class _Maker:
    """One actor: a PairMaker that takes shard indices as Ray Data hands them over."""

    def __init__(self, plan: PairPlan, config: Config):
        pairs = config.pairs
        self.maker = PairMaker(config.teacher, plan, _store(config), pairs.batch_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        stored = [self.maker.make(int(index)) for index in batch["index"]]
        return {"name": [shard.name for shard in stored]}
