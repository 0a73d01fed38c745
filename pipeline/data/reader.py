"""Which row of a set comes when: an endless seeded order that any step enters at once."""

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.data import real, schema
from pipeline.data.manifest import Manifest, Shard
from pipeline.data.plans import PairPlan, RealPlan
from pipeline.data.real import RealBatch
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Store
from pipeline.data.twice import twice
from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.seeds import generator
from pipeline.utils.errors import UserError


class _Rows(Protocol):
    """A batch of any kind of set."""

    def rows(self, rows: Tensor | slice) -> Self: ...
    def float(self) -> Self: ...
    @property
    def ids(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor | None: ...


_Batch = TypeVar("_Batch", bound=_Rows)


class _Reader(Generic[_Batch]):
    """Batches of a set, in an order that follows from (seed, batch_size, window) alone.

    Every epoch shuffles the row groups, cuts them into windows of `window` groups and shuffles
    the rows inside each window: every row once an epoch, and no more than two windows in
    memory. Batches run on across windows and epochs.

    Args:
        store: A closed set.
        seed: Seed of the order.
        batch_size: Rows in a batch.
        window: Row groups shuffled together.
        manifest: Of the set that is read, or of its rows of one shape; None: of the largest set.

    Attributes:
        plan_type: Of its plan.
        decode: Reads a row group, as `schema.decode`.
        manifest: The set that is read.

    Raises:
        UserError: If the store holds no complete set.
    """

    plan_type: ClassVar[type[PairPlan] | type[RealPlan]]
    decode: Callable[[pa.NativeFile, int, tuple[int, ...], str, str], _Batch]

    def __init__(
        self,
        store: Store,
        seed: int,
        batch_size: int,
        window: int = 8,
        manifest: Manifest[Any] | None = None,
    ) -> None:
        self.manifest = manifest or read_manifest(store, self.plan_type)
        self._plan, self._store, self._seed = self.manifest.plan, store, seed
        self._fingerprint = self._plan.fingerprint()
        self._batch_size, self._window_size = batch_size, window
        self._groups = [
            (shard, group, min(schema.GROUP, shard.rows - group * schema.GROUP))
            for shard in self.manifest.shards
            for group in range(-(-shard.rows // schema.GROUP))
        ]
        self._count = sum(rows for *_, rows in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._window = lru_cache(maxsize=2)(self._load_window)

    @property
    def uri(self) -> str:
        """Where the set is."""
        return self._store.uri("")

    def batch(self, index: int) -> _Batch:
        """The index-th batch, index >= 0; in float32.

        Raises:
            UserError: If a shard is gone, damaged, or holds a label out of range.
        """
        position, needed = index * self._batch_size, self._batch_size
        parts = []
        while needed:
            epoch, row = divmod(position, self._count)
            starts = self._epoch(epoch)[1]
            number = bisect_right(starts, row) - 1
            window, order = self._window(epoch, number)
            rows = order[row - starts[number] :][:needed]
            parts.append(window.rows(rows))
            position += len(rows)
            needed -= len(rows)
        return schema.concat(parts).float()

    def _plan_epoch(self, epoch: int) -> tuple[list[int], list[int]]:
        """The groups in this epoch's order, and the first row of each window."""
        rng = generator(self._seed, f"{self._plan.kind.title} groups", epoch)
        order = torch.randperm(len(self._groups), generator=rng).tolist()
        ends = list(accumulate(self._groups[group][2] for group in order))
        return order, [0, *ends[self._window_size - 1 : -1 : self._window_size]]

    def _load_window(self, epoch: int, number: int) -> tuple[_Batch, Tensor]:
        """The rows of a window as stored, and the order of its rows."""
        first = number * self._window_size
        order = self._epoch(epoch)[0][first : first + self._window_size]
        window = schema.concat([self._read(*self._groups[group]) for group in order])
        rng = generator(self._seed, f"{self._plan.kind.title} rows", epoch, number)
        return window, torch.randperm(len(window.ids), generator=rng)

    @twice
    def _read(self, shard: Shard, group: int, rows: int) -> _Batch:
        plan, where = self._plan, self._store.uri(shard.name)
        with self._store.open(shard.name) as file:
            schema.check_size(file.size(), shard.bytes, where, plan.kind)
            shape = plan.shape_of(shard.first)
            batch = self.decode(file, group, shape, self._fingerprint, where)
        again = f"delete it and run {plan.kind.job} again"
        if len(batch.ids) != rows or (batch.labels is None) != (plan.classes is None):
            raise UserError(f"{where} is not the shard its manifest lists; {again}")
        if plan.classes is not None and batch.labels is not None:
            low, high = int(batch.labels.min()), int(batch.labels.max())
            if low < 0 or high >= plan.classes:
                raise UserError(
                    f"{where} has labels from {low} to {high}, but the set has "
                    f"{plan.classes} classes; {again}"
                )
        return batch


class PairReader(_Reader[PairBatch]):
    """Batches of pairs; arguments, order and errors as `_Reader`."""

    plan_type = PairPlan
    decode = staticmethod(schema.decode)


class RealReader(_Reader[RealBatch]):
    """Batches of real images; as `PairReader`."""

    plan_type = RealPlan
    decode = staticmethod(real.decode)

    def _load_window(self, epoch: int, number: int) -> tuple[RealBatch, Tensor]:
        """As stored, but for one of the captions of each image, drawn anew in every epoch."""
        window, order = super()._load_window(epoch, number)
        return window.drawn(generator(self._seed, "captions", epoch, number)), order
