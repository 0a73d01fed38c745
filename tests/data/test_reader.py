"""Laws of the order in which pairs are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.data import schema, shards
from pipeline.data.local import LocalStore
from pipeline.data.reader import PairReader
from pipeline.utils.errors import UserError

BATCH = 70


def _ids(reader: PairReader, batches: range) -> torch.Tensor:
    return torch.cat([reader.batch(index).ids for index in batches])


def test_every_epoch_holds_every_id_once_and_each_in_another_order(pairs):
    ids = _ids(PairReader(pairs, 0, BATCH, window=2), range(3 * 1800 // BATCH + 1))
    epochs = [ids[1800 * epoch : 1800 * (epoch + 1)] for epoch in range(3)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(1800))
    windows = [set((epoch[:256] // 256).tolist()) for epoch in epochs]
    assert len(set(map(frozenset, windows))) > 1, "the row groups are shuffled anew each epoch"


def test_any_batch_is_reached_at_once_and_does_not_depend_on_the_way(pairs):
    reader = PairReader(pairs, 3, BATCH, window=2)
    forward = [reader.batch(index).ids for index in range(60)]
    backward = [reader.batch(index).ids for index in reversed(range(60))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    fresh = PairReader(pairs, 3, BATCH, window=2)
    assert torch.equal(fresh.batch(41).ids, forward[41])
    assert len(fresh.batch(10**9).ids) == BATCH


def test_the_order_follows_from_the_seed(pairs):
    first, second = (PairReader(pairs, seed, BATCH).batch(0).ids for seed in (0, 1))
    assert not torch.equal(first, second)


def test_rows_are_shuffled_across_the_groups_of_a_window(pairs):
    ids = PairReader(pairs, 0, 256, window=8).batch(0).ids
    assert len(set((ids // 256).tolist())) > 4
    assert (ids.diff() == 1).float().mean() < 0.05


def test_a_batch_larger_than_the_set_runs_on_into_the_next_epochs(pairs):
    ids = PairReader(pairs, 0, 4000, window=2).batch(0).ids
    assert set(torch.bincount(ids).tolist()) == {2, 3}


def test_rows_stay_together_and_come_in_float32(pairs):
    batch = PairReader(pairs, 0, BATCH).batch(1)
    assert batch.noise.dtype == torch.float32 and batch.noise.shape == (BATCH, 1, 2, 2)
    assert torch.equal(batch.noise[:, 0, 0, 0], schema.storable(batch.ids / 2048))
    assert torch.equal(batch.images, -batch.noise)
    assert torch.equal(batch.labels, batch.ids % 10)


def test_reading_on_opens_every_row_group_once(pairs, monkeypatch):
    opened: list[str] = []
    reader = PairReader(pairs, 0, BATCH, window=2)
    monkeypatch.setattr(
        LocalStore,
        "open",
        lambda self, name, plain=LocalStore.open: (opened.append(name), plain(self, name))[1],
    )
    _ids(reader, range(1800 // BATCH))
    assert len(opened) == 9
    reader.batch(0)
    assert len(opened) <= 11


def test_an_unconditional_set_has_no_labels(tiny, tmp_path):
    store = tiny.fill(tmp_path, tiny.plan(classes=None), 600)
    assert PairReader(store, 0, BATCH).batch(0).labels is None


def _replace(store: LocalStore, plan, batch) -> str:
    name = next(iter(store.list("pairs-")))
    Path(store.uri(name)).unlink()
    shards.write(store, plan, 0, batch)
    return name


def test_labels_out_of_range_are_named(pairs, tiny):
    batch = tiny.batch(tiny.plan(), 0)
    name = _replace(pairs, tiny.plan(), replace(batch, labels=batch.labels + 3))
    with pytest.raises(UserError, match=f"{name} has labels from .* to 12, .* 10 classes"):
        PairReader(pairs, 0, 1800).batch(0)


def test_a_shard_that_is_gone_truncated_or_another_is_named(pairs, tiny):
    path = Path(pairs.uri(next(iter(pairs.list("pairs-")))))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=f"{path.name} is no readable.*delete it and run"):
        PairReader(pairs, 0, 1800).batch(0)
    path.write_bytes(schema.encode(tiny.batch(tiny.plan(shard_size=300), 0), {}))
    with pytest.raises(UserError, match=path.name):
        PairReader(pairs, 0, 1800).batch(0)
    path.unlink()
    with pytest.raises(UserError, match=f"cannot read .*{path.name}"):
        PairReader(pairs, 0, 1800).batch(0)


def test_a_set_that_is_not_closed_is_refused(tmp_path):
    with pytest.raises(UserError, match="no complete pair set"):
        PairReader(LocalStore(tmp_path), 0, BATCH)
