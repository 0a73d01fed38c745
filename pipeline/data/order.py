"""Which pair comes when: an endless seeded order that any step enters at once."""

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from pipeline.data import schema
from pipeline.data.schema import PairBatch
from pipeline.data.shards import Shard, read_manifest
from pipeline.data.store import Store
from pipeline.diffusion.seeds import generator
from pipeline.errors import UserError


class PairReader:
    """Batches of a pair set, in an order that follows from (seed, batch_size, window) alone.

    Every epoch shuffles the row groups, cuts them into windows of `window` groups and shuffles
    the rows inside each window: every pair once an epoch, and no more than two windows in
    memory. Batches run on across windows and epochs.

    Args:
        store: A closed pair set.
        seed: Seed of the order.
        batch_size: Pairs in a batch.
        window: Row groups shuffled together.

    Attributes:
        manifest: The set that is read.

    Raises:
        UserError: If the store holds no complete set.
    """

    def __init__(self, store: Store, seed: int, batch_size: int, window: int = 8) -> None:
        self.manifest = read_manifest(store)
        self._fingerprint = self.manifest.plan.fingerprint()
        self._store, self._seed = store, seed
        self._batch_size, self._window_size = batch_size, window
        self._groups = [
            (shard, group, min(schema.GROUP, shard.rows - group * schema.GROUP))
            for shard in self.manifest.shards
            for group in range(-(-shard.rows // schema.GROUP))
        ]
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._window = lru_cache(maxsize=2)(self._load_window)

    def batch(self, index: int) -> PairBatch:
        """The index-th batch, index >= 0; noise and images in float32.

        Raises:
            UserError: If a shard is gone, damaged, or holds a label out of range.
        """
        position, needed = index * self._batch_size, self._batch_size
        parts = []
        while needed:
            epoch, row = divmod(position, self.manifest.count)
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
        rng = generator(self._seed, "pair groups", epoch)
        order = torch.randperm(len(self._groups), generator=rng).tolist()
        ends = list(accumulate(self._groups[group][2] for group in order))
        return order, [0, *ends[self._window_size - 1 : -1 : self._window_size]]

    def _load_window(self, epoch: int, number: int) -> tuple[PairBatch, Tensor]:
        """The pairs of a window as stored, and the order of its rows."""
        first = number * self._window_size
        order = self._epoch(epoch)[0][first : first + self._window_size]
        window = schema.concat([self._read(*self._groups[group]) for group in order])
        rng = generator(self._seed, "pair rows", epoch, number)
        return window, torch.randperm(len(window.ids), generator=rng)

    def _read(self, shard: Shard, group: int, rows: int) -> PairBatch:
        plan, where = self.manifest.plan, self._store.where(shard.name)
        with self._store.open(shard.name) as file:
            batch = schema.decode(file, group, plan.shape, self._fingerprint, where)
        again = "delete it and run jobs/pairs.py again"
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
