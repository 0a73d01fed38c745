"""Sets of several shapes: no row is lost, none comes twice, and plain sets stay what they are."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import S3Config
from pipeline.data import real, shards
from pipeline.data.local import LocalStore
from pipeline.data.plans import RealPlan
from pipeline.data.reader import PairReader, RealReader
from pipeline.data.real import Damaged, RealBatch
from pipeline.diffusion.buckets import Buckets
from pipeline.runs.pairs import RunPairs
from pipeline.utils.errors import UserError
from tests.data.conftest import Tiny

SHAPES = ((1, 2, 2), (1, 2, 4), (1, 4, 2), (1, 2, 3, 2))
sets = st.fixed_dictionaries(
    {
        "shares": st.lists(st.integers(1, 3), min_size=2, max_size=4),
        "rounds": st.integers(1, 2),
        "more": st.integers(0, 2),
        "size": st.integers(1, 5),
        "seed": st.integers(0, 2**32 - 1),
        "batch": st.integers(1, 7),
    }
)


def planned(shares: list[int], size: int, seed: int):
    shapes = SHAPES[: len(shares)]
    return Tiny().plan(
        shape=shapes[0], shapes=shapes, shares=tuple(shares), shard_size=size, seed=seed
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(drawn=sets)
def test_every_row_of_every_bucket_comes_once_an_epoch_in_its_own_shape(drawn):
    """As microbatches are dealt from their own deck, with shares of their own."""
    plan = planned(drawn["shares"], drawn["size"], drawn["seed"])
    count = drawn["size"] * (drawn["rounds"] * plan.buckets.round + drawn["more"])
    with TemporaryDirectory() as folder:
        Tiny().fill(Path(folder) / "pairs", plan, count)
        pairs = RunPairs(f"{folder}/pairs", f"{folder}/run", S3Config())
        parts = [pairs.manifest.of(shape) for shape in plan.buckets.shapes]
        assert sum(part.count for part in parts) == pairs.manifest.count == count
        readers = [pairs.reader(3, drawn["batch"], shape) for shape in plan.buckets.shapes]
        deck, seen = Buckets(plan.buckets.shapes, tuple(drawn["shares"][::-1])), {}
        done = [2 * part.count // drawn["batch"] + 1 for part in parts]
        number = 0
        while any(len(seen.get(each, ())) < todo for each, todo in enumerate(done)):
            bucket, rank = deck.place(number, "microbatches", 0)
            batch = readers[bucket].batch(rank)
            assert batch.images.shape[1:] == batch.noise.shape[1:] == plan.buckets.shapes[bucket]
            seen.setdefault(bucket, []).append(batch.ids)
            number += 1
        for bucket, part in enumerate(parts):
            ids = torch.cat(seen[bucket])
            own = sorted(each.first + row for each in part.shards for row in range(each.rows))
            for epoch in range(2):
                one = ids[epoch * part.count : (epoch + 1) * part.count]
                assert sorted(one.tolist()) == own


def test_shards_are_of_the_shapes_in_their_shares_and_say_so(tmp_path):
    plan = planned([2, 1, 1], 3, 5)
    store = Tiny().fill(tmp_path, plan, 3 * 16)
    found = [pq.read_metadata(store.uri(name)).metadata for name in store.list("pairs-")]
    shapes = [tuple(json.loads(each[b"shape"])) for each in found]
    for first in range(0, 16, 4):
        assert Counter(shapes[first : first + 4]) == {SHAPES[0]: 2, SHAPES[1]: 1, SHAPES[2]: 1}
    assert shapes == [plan.shape_of(3 * number) for number in range(16)]
    assert shards.read_manifest(store).plan == plan


def test_a_set_that_grows_keeps_its_shards(tmp_path):
    plan = planned([1, 2], 3, 5)
    store = Tiny().fill(tmp_path, plan, 3 * 4)
    before = {name: store.get(name) for name in store.list("pairs-")}
    Tiny().fill(tmp_path, plan, 3 * 9)
    assert before.items() <= {name: store.get(name) for name in store.list("pairs-")}.items()


def test_a_plan_of_one_shape_is_stored_as_before(tiny, tmp_path):
    store = tiny.fill(tmp_path, tiny.plan(), 600)
    for name in ("plan.json", "manifest-600.json"):
        assert b"share" not in store.get(name) and b"shapes" not in store.get(name)
    (name,) = store.list("pairs-")
    assert not {b"shapes", b"shares"} & pq.read_metadata(store.uri(name)).metadata.keys()


def test_a_bucket_without_a_shard_is_one_line():
    plan = planned([5, 1], 10, 0)
    with pytest.raises(UserError, match=r"pairs\.count: 1 shards hold none of 1x2x.; 60 \(6 sha"):
        plan.spans(10)
    assert len(plan.spans(60)) == 6


def test_a_shape_that_the_set_has_not_is_one_line(tmp_path):
    store = Tiny().fill(tmp_path, planned([1, 1], 3, 5), 12)
    manifest = shards.read_manifest(store)
    with pytest.raises(UserError, match=r"pairs\.output: .* 1x2x2 or 1x2x4, .* of 1x4x2, which"):
        manifest.of(SHAPES[2])
    assert PairReader(store, 0, 2, manifest=manifest.of(SHAPES[1])).batch(0).noise.shape[3] == 4


def planned_real(shares: list[int], size: int, count: int) -> RealPlan:
    shapes = SHAPES[: len(shares)]
    several = (shapes, tuple(shares)) if len(shares) > 1 else (None, None)
    return RealPlan("pixels", "abc", count, (2, 2), size, shapes[0], None, False, *several)


def fill_real(folder: Path, plan: RealPlan, unreadable: set[int] = frozenset()) -> LocalStore:
    """A closed set of images that hold their own id."""
    store = LocalStore(folder)
    shards.open_plan(store, plan)
    for span in plan.spans(plan.count):
        ids = torch.tensor([id for id in span if id not in unreadable], dtype=torch.int64)
        shape = plan.shape_of(span.start)
        images = ids.view(-1, *(1,) * len(shape)).repeat(1, *shape) / 2048
        lost = [Damaged(id, "it", "torn") for id in span if id in unreadable]
        real.write(store, plan, span, RealBatch(ids, None, None, images), lost)
    real.close(store, plan)
    return store


@settings(max_examples=10, deadline=None, derandomize=True)
@given(drawn=sets)
def test_every_real_image_of_every_bucket_comes_once_an_epoch_in_its_own_shape(drawn):
    """Also where one is damaged, and where the last shard is short."""
    shares = drawn["shares"][:3]
    full = drawn["rounds"] * Buckets(SHAPES[: len(shares)], tuple(shares)).round + drawn["more"]
    count = drawn["size"] * full + drawn["seed"] % drawn["size"]
    plan, lost = planned_real(shares, drawn["size"], count), drawn["seed"] % count
    with TemporaryDirectory() as folder:
        store = fill_real(Path(folder), plan, {lost} if drawn["size"] > 1 else set())
        manifest, found = shards.read_manifest(store, RealPlan), []
        assert manifest.plan == plan
        for shape in plan.buckets.shapes:
            part = manifest.of(shape)
            own = sorted(
                id
                for span in plan.spans(count)
                if plan.shape_of(span.start) == shape
                for id in span
                if id != lost or drawn["size"] == 1
            )
            assert part.count == len(own)
            reader = RealReader(store, 3, drawn["batch"], manifest=part)
            batches = [reader.batch(n) for n in range(2 * part.count // drawn["batch"] + 1)]
            ids, images = (torch.cat([getattr(b, k) for b in batches]) for k in ("ids", "images"))
            assert images.shape[1:] == shape
            assert torch.equal(images.flatten(1).amax(1) * 2048, ids.float())
            for epoch in range(2):
                assert sorted(ids[epoch * len(own) : (epoch + 1) * len(own)].tolist()) == own
            found += own
        assert len(found) == manifest.count
        deck = plan.buckets.round
        dealt = Counter(plan.shape_of(n * drawn["size"]) for n in range(deck))
        of_deck = sum(shares) // deck
        assert dealt == {s: n // of_deck for s, n in zip(plan.buckets.shapes, shares, strict=True)}


def test_real_sets_of_one_shape_are_stored_as_before(tmp_path):
    plan = planned_real([1], 4, 10)
    store = fill_real(tmp_path, plan)
    assert plan.fingerprint() == "8ad6b1b189310782" and list(
        json.loads(store.get("plan.json"))
    ) == [
        *("codec", "source", "count", "size", "shard_size", "shape", "classes", "captions"),
        "version",
    ]
    for name in store.list("real-"):
        assert not {b"shapes", b"shares"} & pq.read_metadata(store.uri(name)).metadata.keys()


def test_too_few_real_images_for_shards_of_all_buckets_are_one_line():
    for count, way_out in ((3, "give 4 images"), (9, "use 2 or less"), (400, "use 100 or less")):
        with pytest.raises(UserError, match=rf"encode\.shard_size: 1 shards of .*; {way_out}"):
            planned_real([2, 1, 1], 500, count).spans(count)
    for count in range(4, 60):  # what the line says is enough
        planned_real([2, 1, 1], count // 4, count).spans(count)


def test_a_bucket_whose_images_are_all_damaged_is_one_line(tmp_path):
    plan = planned_real([1, 1], 3, 6)
    first = plan.shape_of(0)
    other = next(shape for shape in plan.buckets.shapes if shape != first)
    manifest = shards.read_manifest(fill_real(tmp_path, plan, {0, 1, 2}), RealPlan)
    assert manifest.of(other).count == 3
    with pytest.raises(UserError, match=r"encode\.output: .* no row is of .*run jobs/encode\.py"):
        manifest.of(first)
