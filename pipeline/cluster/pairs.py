"""The pairs job: missing shards -> a pool of Ray Data actors -> the manifest."""

import queue
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy, DataContext

from pipeline.cluster.session import connect
from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.s3 import REQUESTS
from pipeline.data.shards import PairPlan
from pipeline.data.store import Store, open_store, probe
from pipeline.errors import UserError
from pipeline.pairs import PairMaker, pair_plan
from pipeline.progress import progress

WAVE = 2000
"""Shards handed to Ray at once: planning more would take its driver time and memory."""
TRIES = 3
"""Times an actor tries a shard before it is reported as failed."""


def make_pairs(config: Config) -> None:
    """Make every shard that is not stored yet, then close the set; run again, it goes on.

    Raises:
        UserError: If the teacher cannot be loaded, the output holds another set, the store
            refuses, or no shard comes for `pairs.patience` seconds; if shards failed, after all
            others are made.
    """
    pairs, plan, store = config.pairs, pair_plan(fetch_inputs(config, "teacher")), _store(config)
    probe(store)
    shards.open_plan(store, plan)
    todo = shards.missing(store, plan, pairs.count)
    done = pairs.count - len(todo) * plan.shard_size
    failed: dict[int, str] = {}
    with progress(pairs.count, "pairs", "pairs", start=done) as bar:
        for first in range(0, len(todo), WAVE):
            rows = _make(todo[first : first + WAVE], plan, config)
            for row in _patiently(rows, pairs.patience):
                if row["refused"]:
                    raise UserError(row["refused"])
                if row["failed"]:
                    failed[row["index"]] = row["failed"]
                else:
                    bar.update(plan.shard_size)
    if failed:
        index, error = min(failed.items())
        raise UserError(
            f"{len(failed)} of {len(todo)} shards failed {TRIES} times each, the first of them "
            f"shard {index}: {error}; the others are stored: mend it and run the same command again"
        )
    manifest = shards.close(store, plan, pairs.count)
    size = sum(shard.bytes for shard in manifest.shards)
    print(
        f"pairs  {manifest.count} pairs in {len(manifest.shards)} shards, {size:,} bytes: "
        f"{pairs.output}"
    )
    if sent := ", ".join(f"{number} {name}" for name, number in sorted(REQUESTS.items())):
        print(f"pairs  S3 requests of the driver: {sent}")


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


def _patiently(rows: Iterable[dict[str, Any]], seconds: float) -> Iterator[dict[str, Any]]:
    """Hand on what comes; where nothing comes for so long, raise a UserError.

    Who stops asking also stops the work behind the rows, when the next of them comes.
    """
    arrived: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
    ended = threading.Event()

    def wait() -> None:
        try:
            for row in rows:
                arrived.put(row)
                if ended.is_set():
                    return
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=wait, name="pairs", daemon=True).start()
    try:
        while True:
            try:
                row = arrived.get(timeout=seconds)
            except queue.Empty:
                raise UserError(
                    f"no shard was made in pairs.patience {seconds:g} seconds: `ray status` tells "
                    "whether the cluster has room for pairs.actors (cpus, gpus); if a shard takes "
                    "longer, raise pairs.patience or lower pairs.shard_size"
                ) from None
            if isinstance(row, BaseException):
                raise row
            if row is None:
                return
            yield row
    finally:
        ended.set()


def _store(config: Config) -> Store:
    return open_store(config.pairs.output, config.s3)


class _Maker:
    """One actor: a PairMaker that takes shard indices as Ray Data hands them over."""

    def __init__(self, plan: PairPlan, config: Config):
        self.plan, self.config = plan, config

    @cached_property
    def maker(self) -> PairMaker:
        """Made at the first shard: an error in an actor's constructor would not come back."""
        teacher = fetch_inputs(self.config, "teacher").teacher
        return PairMaker(teacher, self.plan, _store(self.config), self.config.pairs.batch_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [self.make(int(index)) for index in batch["index"]]
        failed, refused = ([outcome[side] for outcome in outcomes] for side in (0, 1))
        return {**batch, "failed": failed, "refused": refused}

    def make(self, index: int) -> tuple[str, str]:
        """Make a shard.

        Returns:
            Why it failed, and what the user has to mend before any shard can be made; "" where
            there is nothing to say. They are returned, for Ray Data loses what is raised here.
        """
        for _ in range(TRIES):
            try:
                self.maker.make(index)
                return "", ""
            except UserError as error:
                return "", str(error)
            except torch.OutOfMemoryError:
                return "", (
                    "pairs.batch_size: memory does not hold the teacher and "
                    f"{self.maker.batch_size} pairs; lower it or let null find what it holds, "
                    "share a GPU among fewer pairs.actors, or use a larger one"
                )
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        return reason, ""
