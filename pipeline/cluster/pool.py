"""Numbered pieces of work -> a pool of Ray Data actors: what all jobs on images share."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import ray
import torch
from ray.data import ActorPoolStrategy, DataContext

from pipeline.cluster.room import LOOK_SECONDS, Asked, Waiting
from pipeline.cluster.session import connect
from pipeline.config import EmbedConfig, EncodeConfig, EvaluateConfig, PairsConfig
from pipeline.data import shards
from pipeline.data.lease import Lease
from pipeline.data.manifest import Manifest
from pipeline.data.plans import Plan
from pipeline.data.s3 import REQUESTS
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError
from pipeline.utils.progress import Progress

WAVE = 2000
"""Shards handed to Ray at once: planning more would take its driver time and memory."""
TRIES = 3
"""Times an actor tries a shard before it is reported as failed; once, if it cannot but fail."""
LAST_SECONDS = 10.0
"""For the next row, where no more are wanted."""


class Maker(Protocol):
    """Does whole pieces of work in an actor."""

    def make(self, index: int) -> str | bytes:
        """Make one shard and store it, unless it is stored already; returns its name.

        Work that is stored nowhere is returned itself.
        """

    @property
    def too_large(self) -> str:
        """What the user can do where memory does not hold the work."""


@dataclass(frozen=True)
class Work:
    """What a pool of actors does.

    Attributes:
        name: Of the branch of settings, for messages.
        unit: What a row is, in the plural.
        settings: That branch: the actors, and how long a shard may take.
        maker: Makes an actor's maker.
        size: The setting that makes a shard smaller.
    """

    name: str
    unit: str
    settings: PairsConfig | EncodeConfig | EmbedConfig | EvaluateConfig
    maker: Callable[[], Maker]
    size: str = "shard_size"


def make_missing(store: Storage, plan: Plan, count: int, work: Work) -> None:
    """Make every shard of a set that is not stored yet; run again, it goes on.

    Args:
        store: Where the set is.
        plan: Of the set.
        count: Its number of rows.
        work: What makes it.

    Raises:
        UserError: If the output holds another set, another driver makes it, the store refuses, a
            maker does, or no shard comes for so long; if shards failed, after all others are made.
    """
    with Lease(store) as lease:
        store.sweep()
        shards.open_plan(store, plan)
        _make_missing(store, plan, count, work, lease)
        store.sweep()


def _make_missing(store: Storage, plan: Plan, count: int, work: Work, lease: Lease) -> None:
    todo, spans = shards.missing(store, plan, count), plan.spans(count)
    done = count - sum(len(spans[index]) for index in todo)
    failed: dict[int, str] = {}
    with Progress(count, work.name, work.unit, start=done) as bar:
        for first in range(0, len(todo), WAVE):
            for row in outcomes(todo[first : first + WAVE], work):
                lease.check()
                if row["failed"]:
                    failed[row["index"]] = row["failed"]
                else:
                    bar.update(len(spans[row["index"]]))
    if failed:
        index, error = min(failed.items())
        raise UserError(
            f"{len(failed)} of {len(todo)} shards failed, the first of them shard {index}: {error}"
            "; the others are stored: mend it and run the same command again"
        )


def outcomes(todo: list[int], work: Work) -> Iterator[dict[str, Any]]:
    """What became of each piece, in the order they are done: `index`, and `made` or `failed`.

    Raises:
        UserError: If a maker refuses, or nothing comes for so long.
    """
    with closing(_patiently(_rows(todo, work), work)) as rows:
        for row in rows:
            if row["refused"]:
                raise UserError(row["refused"])
            yield row


def report(manifest: Manifest[Any], work: Work, output: str) -> None:
    """Say what there is now, and what it took of S3."""
    size = sum(shard.bytes for shard in manifest.shards)
    print(
        f"{work.name}  {manifest.count} {work.unit} in {len(manifest.shards)} shards, "
        f"{size:,} bytes: {output}"
    )
    if sent := ", ".join(f"{number} {name}" for name, number in sorted(REQUESTS.items())):
        print(f"{work.name}  S3 requests of the driver: {sent}")


def _rows(todo: list[int], work: Work) -> Any:
    """Rows that come in as the actors finish shards."""
    connect()
    actors = work.settings.actors
    DataContext.get_current().enable_progress_bars = False
    return (
        ray.data.from_items([{"index": index} for index in todo], override_num_blocks=len(todo))
        .map_batches(
            Actor,
            fn_constructor_args=(work,),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=actors.min, max_size=actors.max),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
        )
        .iter_rows()
    )


_Arrived = queue.SimpleQueue[dict[str, Any] | BaseException | None]


def _patiently(rows: Iterable[dict[str, Any]], work: Work) -> Generator[dict[str, Any]]:
    """Hand on what comes; where nothing comes for so long, raise a UserError.

    Who closes it also stops the work behind the rows, when the next of them comes, and waits for
    that a while: work that Ray's own end finds on its way prints tracebacks and starts Ray again.
    """
    arrived: _Arrived = queue.SimpleQueue()
    ended, actors = threading.Event(), work.settings.actors
    asked = Asked(f"{work.name}.actors", 1, actors.cpus, actors.gpus)
    asked.check()
    waiting = Waiting(work.name, asked)

    def wait() -> None:
        try:
            for row in rows:
                arrived.put(row)
                if ended.is_set():
                    return
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    waiting.look()
    reader = threading.Thread(target=wait, name=work.name, daemon=True)
    reader.start()
    try:
        while True:
            row = _next(arrived, waiting, work.settings.patience)
            waiting.begin()
            if isinstance(row, BaseException):
                raise row
            if row is None:
                return
            yield row
    except GeneratorExit:
        ended.set()
        reader.join(LAST_SECONDS)
        raise
    except queue.Empty:
        name, seconds = work.name, work.settings.patience
        raise UserError(
            f"no shard was made in {name}.patience {seconds:g} seconds: {asked}; if a shard takes "
            f"longer, raise {name}.patience or lower {name}.{work.size}"
        ) from None
    finally:
        ended.set()


def _next(arrived: _Arrived, waiting: Waiting, patience: float) -> Any:
    """What comes next; raises queue.Empty if it is nothing for so many seconds."""
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > LOOK_SECONDS:
        waiting.look()
        with suppress(queue.Empty):
            return arrived.get(timeout=LOOK_SECONDS)
    return arrived.get(timeout=max(left, 0.0))


class Actor:
    """One actor: a maker that takes shard indices as Ray Data hands them over."""

    def __init__(self, work: Work):
        self.work = work

    @cached_property
    def maker(self) -> Maker:
        """Made at the first shard: an error in an actor's constructor would not come back."""
        return self.work.maker()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = [self.make(int(index)) for index in batch["index"]]
        return {**batch, **{name: [each[name] for each in done] for name in done[0]}}

    def make(self, index: int) -> dict[str, str | bytes]:
        """Make a shard.

        Returns:
            `made`: what the maker returned. `failed`: why it failed. `refused`: what the user has
            to mend before any shard can be made. Empty where there is nothing to say. Errors are
            returned, for Ray Data loses what is raised here.
        """
        nothing: dict[str, str | bytes] = {"made": b"", "failed": "", "refused": ""}
        for _ in range(TRIES):
            try:
                made = self.maker.make(index)
                return nothing | {"made": made.encode() if isinstance(made, str) else made}
            except UserError as error:
                return nothing | {"refused": str(error)}
            except torch.OutOfMemoryError:
                return nothing | {"refused": self.maker.too_large}
            except FloatingPointError as error:  # it follows from the plan, at every try
                return nothing | {"failed": f"{type(error).__name__}: {error}"}
            except Exception as error:
                reason = f"{type(error).__name__}: {error} ({TRIES} times)"
        return nothing | {"failed": reason}
