"""Laws of plan, shards and manifest."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data import schema, shards
from pipeline.data.store import LocalStore
from pipeline.errors import UserError


def test_a_set_is_its_plan_its_shards_and_its_manifest(pairs):
    assert pairs.list() == [
        "manifest-1800.json",
        "pairs-000000000000-000000000600.parquet",
        "pairs-000000000600-000000001200.parquet",
        "pairs-000000001200-000000001800.parquet",
        "plan.json",
    ]


def test_the_manifest_describes_the_stored_shards(pairs, tiny):
    manifest = shards.read_manifest(pairs)
    assert manifest.plan == tiny.plan() and manifest.count == 1800
    assert [shard.first for shard in manifest.shards] == [0, 600, 1200]
    for shard in manifest.shards:
        path = pairs.where(shard.name)
        assert shard.bytes == Path(path).stat().st_size
        assert shard.rows == 600 and shard.sha256 == schema.digest(pq.read_table(path))


def test_the_loser_of_a_race_reports_the_winners_shard(tiny, tmp_path):
    store, plan = LocalStore(tmp_path), tiny.plan()
    batch = tiny.batch(plan, 0)
    winner = shards.write(store, plan, 0, batch)
    loser = shards.write(store, plan, 0, replace(batch, images=batch.images + 1))
    assert loser == winner
    assert shards.close(store, plan, 600).shards == (winner,)


def test_the_same_pairs_make_the_same_files(pairs, tiny, tmp_path):
    again = tiny.fill(tmp_path / "again", tiny.plan(), 1800)
    assert again.list() == pairs.list()
    assert all(again.get(name) == pairs.get(name) for name in pairs.list())


def test_the_footer_says_what_made_the_pairs(pairs, tiny):
    metadata = pq.read_metadata(pairs.where(pairs.list("pairs-")[1])).metadata
    expected = {
        "version": "1",
        "teacher": "abc",
        "seed": "0",
        "solver": "heun",
        "steps": "18",
        "guidance": "1.0",
        "shape": "[1, 2, 2]",
        "classes": "10",
        "dtype": "float16",
        "noise": shards.NOISE,
        "plan": tiny.plan().fingerprint(),
    }
    assert expected.items() <= {k.decode(): v.decode() for k, v in metadata.items()}.items()


def test_missing_is_planned_minus_stored_and_a_set_grows(pairs, tiny):
    plan = tiny.plan()
    assert shards.missing(pairs, plan, 1800) == []
    Path(pairs.where(pairs.list("pairs-")[1])).unlink()
    assert shards.missing(pairs, plan, 3000) == [1, 3, 4]
    first = pairs.get(pairs.list("pairs-")[0])
    tiny.fill(pairs.folder, plan, 3000)
    assert shards.read_manifest(pairs).count == 3000
    assert pairs.get(pairs.list("pairs-")[0]) == first
    assert shards.close(pairs, plan, 1800).count == 1800


def test_labels_are_balanced_and_absent_without_classes(tiny):
    plan = tiny.plan()
    labels = shards.labels(plan, shards.ids(plan, 2))
    assert torch.bincount(labels).tolist() == [60] * 10
    assert shards.labels(tiny.plan(classes=None), torch.arange(3)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"teacher": "xyz"}, "teacher 'abc', not 'xyz'"),
        ({"guidance": 2.0, "steps": 9}, "guidance 1.0, not 2.0; steps 18, not 9"),
        ({"classes": None}, "classes 10, not None"),
    ],
)
def test_another_plan_is_refused_with_every_difference(pairs, tiny, change, message):
    shards.open_plan(pairs, tiny.plan())
    with pytest.raises(UserError, match=f"plan.json.*{message}.*another folder"):
        shards.open_plan(pairs, tiny.plan(**change))


def test_pairs_of_another_teacher_are_refused(pairs):
    manifest = shards.read_manifest(pairs)
    manifest.check_teacher("abc")
    with pytest.raises(UserError, match="another teacher: abc, not xyz; set pairs.output"):
        manifest.check_teacher("xyz")


def test_a_damaged_plan_is_refused(tiny, tmp_path):
    for text, message in (
        ('{"seed": 0}', "teacher None, not 'abc'"),
        ('{"se', "damaged"),
        ("1", "is of another one"),
    ):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(UserError, match=message):
            shards.open_plan(LocalStore(tmp_path), tiny.plan())


@pytest.mark.parametrize(("count", "way_out"), [(700, "use 600 or 1200$"), (10, "use 600$")])
def test_a_count_is_whole_shards(tiny, tmp_path, count, way_out):
    with pytest.raises(UserError, match=f"pairs.count {count}.*pairs.shard_size 600.*{way_out}"):
        shards.missing(LocalStore(tmp_path), tiny.plan(), count)


def test_a_set_with_a_missing_truncated_or_foreign_shard_is_not_closed(tiny, tmp_path):
    store, plan = LocalStore(tmp_path), tiny.plan()
    with pytest.raises(UserError, match="cannot read .*000000000600.parquet"):
        shards.close(store, plan, 600)
    shards.write(store, plan, 0, tiny.batch(plan, 0))
    path = tmp_path / store.list("pairs-")[0]
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    with pytest.raises(UserError, match="000000000600.parquet.*delete it and run jobs/pairs.py"):
        shards.close(store, plan, 600)
    path.write_bytes(data)
    with pytest.raises(UserError, match="000000000600.parquet is a shard of another plan"):
        shards.close(store, tiny.plan(seed=1), 600)
    assert store.list("manifest-") == []


def test_a_manifest_is_never_rewritten(pairs, tiny):
    before = pairs.get("manifest-1800.json")
    plan, name = tiny.plan(), pairs.list("pairs-")[0]
    assert shards.close(pairs, plan, 1800) == shards.read_manifest(pairs)
    Path(pairs.where(name)).unlink()
    batch = tiny.batch(plan, 0)
    shards.write(pairs, plan, 0, replace(batch, images=batch.images + 1))
    with pytest.raises(UserError, match="manifest-1800.json lists other shards.*delete this"):
        shards.close(pairs, plan, 1800)
    assert pairs.get("manifest-1800.json") == before


def test_an_open_empty_or_damaged_set_cannot_be_read(pairs, tmp_path):
    with pytest.raises(UserError, match="no complete pair set in .*run jobs/pairs.py first"):
        shards.read_manifest(LocalStore(tmp_path / "none"))
    path = Path(pairs.where("manifest-1800.json"))
    empty = json.loads(path.read_text()) | {"count": 0, "shards": []}
    for text, message in (
        (json.dumps(empty), "is empty: run jobs/pairs.py"),
        ('{"plan', "manifest-1800.json is damaged"),
        ("{}", "manifest-1800.json is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            shards.read_manifest(pairs)
