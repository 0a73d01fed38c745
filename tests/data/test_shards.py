"""Laws of plan, shards and manifest."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data import shards
from pipeline.data.local import LocalStore
from pipeline.data.manifest import Shard
from pipeline.data.plans import RealPlan
from pipeline.utils.errors import UserError


def first(store: LocalStore) -> str:
    return next(iter(store.list("pairs-")))


def test_a_set_is_its_plan_its_shards_and_its_manifest(pairs):
    assert list(pairs.list()) == [
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
        path = pairs.uri(shard.name)
        assert shard.bytes == Path(path).stat().st_size
        assert shard.rows == pq.read_metadata(path).num_rows == 600


def test_the_loser_of_a_race_leaves_the_winners_shard(tiny, tmp_path):
    store, plan = LocalStore(tmp_path), tiny.plan()
    batch = tiny.batch(plan, 0)
    name = shards.write(store, plan, 0, batch)
    winner = store.get(name)
    assert shards.write(store, plan, 0, replace(batch, images=batch.images + 1)) == name
    assert store.get(name) == winner
    assert shards.close(store, plan, 600).shards == (Shard(name, 0, 600, len(winner)),)


def test_closing_and_checking_open_no_shard(pairs, tiny, monkeypatch):
    monkeypatch.setattr(LocalStore, "open", None)
    shards.check_stored(pairs, shards.close(pairs, tiny.plan(), 1800))


def test_the_same_pairs_make_the_same_files(pairs, tiny, tmp_path):
    again = tiny.fill(tmp_path / "again", tiny.plan(), 1800)
    assert again.list() == pairs.list()
    assert all(again.get(name) == pairs.get(name) for name in pairs.list())


def test_the_footer_says_what_made_the_pairs(pairs, tiny):
    metadata = pq.read_metadata(pairs.uri(list(pairs.list("pairs-"))[1])).metadata
    expected = {
        "version": "3",
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


def test_the_footers_order_stays_for_sets_begun_earlier(tiny):
    footer = tiny.plan().footer(noise=shards.NOISE)
    assert list(footer)[:2] == ["teacher", "seed"]
    assert list(footer)[-3:] == ["version", "noise", "plan"]


def test_settings_that_came_later_are_stored_where_they_are_set(tiny, tmp_path):
    plan = tiny.plan()
    assert plan.fingerprint() == "a8bb5922aab9e020"
    for number, change in enumerate(
        [
            {"guidance_until": 0.5},
            {"guidance_norm": False},
            {"guidance_2": 3.0},
            {"precision": "bf16"},
        ]
    ):
        (name,) = change
        other = tiny.plan(**change)
        assert name not in plan.footer() and name in other.footer()
        assert other.fingerprint() != plan.fingerprint()
        store = tiny.fill(tmp_path / str(number), other, 600)
        assert shards.read_manifest(store).plan == other
        with pytest.raises(UserError, match=name):
            shards.open_plan(store, plan)


def test_a_set_of_the_other_precision_is_refused_with_the_way_to_go_on(tiny, tmp_path):
    fp32, bf16 = tiny.plan(), tiny.plan(precision="bf16")
    for number, (there, wanted) in enumerate([(fp32, bf16), (bf16, fp32)]):
        store = tiny.fill(tmp_path / str(number), there, 600)
        with pytest.raises(UserError, match=f"or set pairs.precision {there.precision}$"):
            shards.open_plan(store, wanted)
        with pytest.raises(UserError, match="precision .*; seed ((?!pairs.precision).)*$"):
            shards.open_plan(store, replace(wanted, seed=9))


def test_missing_is_planned_minus_stored_and_a_set_grows(pairs, tiny):
    plan = tiny.plan()
    assert shards.missing(pairs, plan, 1800) == []
    Path(pairs.uri(list(pairs.list("pairs-"))[1])).unlink()
    assert shards.missing(pairs, plan, 3000) == [1, 3, 4]
    before = pairs.get(first(pairs))
    tiny.fill(pairs.folder, plan, 3000)
    assert shards.read_manifest(pairs).count == 3000
    assert pairs.get(first(pairs)) == before
    assert shards.close(pairs, plan, 1800).count == 1800


def test_labels_are_balanced_and_absent_without_classes(tiny):
    plan = tiny.plan()
    labels = shards.labels(plan, shards.ids(plan, 2))
    assert torch.bincount(labels).tolist() == [60] * 10
    assert shards.labels(tiny.plan(classes=None), torch.arange(3)) is None


def test_weighted_labels_come_as_often_as_their_weights_in_every_run_of_ids(tiny):
    plan = tiny.plan(classes=4, weights=(0.0, 3.0, 1.0, 0.0))
    for first in (0, 7_777_777_777):
        labels = shards.labels(plan, torch.arange(first, first + 400))
        assert set(labels.tolist()) == {1, 2}
        assert abs(int((labels == 1).sum()) - 300) <= 3
        assert abs(int((labels[:40] == 1).sum()) - 30) <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"teacher": "xyz"}, "teacher 'abc', not 'xyz'"),
        ({"guidance": 2.0, "steps": 9}, "guidance 1.0, not 2.0; steps 18, not 9"),
        ({"classes": None}, "classes 10, not None"),
        ({"weights": (1.0,) * 10}, r"weights None, not \[1.0, "),
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


def test_a_set_with_a_missing_shard_is_not_closed(tiny, tmp_path):
    store, plan = LocalStore(tmp_path), tiny.plan()
    shards.write(store, plan, 1, tiny.batch(plan, 1))
    with pytest.raises(UserError, match="000000000600.parquet is missing: run jobs/pairs.py again"):
        shards.close(store, plan, 1200)
    assert not store.list("manifest-")


def test_a_shard_gone_or_changed_since_is_seen_before_training(pairs):
    manifest, path = shards.read_manifest(pairs), Path(pairs.uri(first(pairs)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"000000000600.parquet .*bytes, .*delete it"):
        shards.check_stored(pairs, manifest)
    path.unlink()
    with pytest.raises(UserError, match="000000000600.parquet is missing: run jobs/pairs.py again"):
        shards.check_stored(pairs, manifest)


def test_an_open_empty_or_damaged_set_cannot_be_read(pairs, tmp_path):
    with pytest.raises(UserError, match="no complete pair set in .*run jobs/pairs.py first"):
        shards.read_manifest(LocalStore(tmp_path / "none"))
    path = Path(pairs.uri("manifest-1800.json"))
    for text, message in (
        ('{"plan', "manifest-1800.json is damaged"),
        ("[]", "manifest-1800.json is damaged"),
        ("{}", "manifest-1800.json is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            shards.read_manifest(pairs)


def test_a_set_of_no_images_is_empty(tmp_path):
    plan = RealPlan("pixels", "abc", 0, (8, 8), 4, (3, 8, 8), None, False)
    shards.close(LocalStore(tmp_path), plan, 0)
    with pytest.raises(UserError, match="real set in .* is empty: run jobs/encode.py first"):
        shards.read_manifest(LocalStore(tmp_path), RealPlan)


def of_shards(change: Callable[[list[dict]], object]) -> Callable[[dict], object]:
    return lambda manifest: change(manifest["shards"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda manifest: manifest.update(count=3600), "count is 3600, its shards have 1800"),
        (lambda manifest: manifest.update(count="1800"), "no integers"),
        (lambda manifest: manifest.update(count=1800.0), "no integers"),
        (of_shards(lambda shards: shards[0].update(rows=True)), "no integers"),
        (of_shards(lambda shards: shards[0].update(bytes=None)), "no integers"),
        (of_shards(lambda shards: shards[1].update(rows=0)), "000000001200.parquet 0 rows"),
        (of_shards(lambda shards: shards[1].update(rows=-600)), "000000001200.parquet -600 rows"),
        (of_shards(lambda shards: shards[1].update(rows=599)), "000000001200.parquet 599 rows"),
        (of_shards(lambda shards: shards[1].update(first=0)), "other shards than a set of 1800"),
        (of_shards(lambda shards: shards[1].update(name="x")), "other shards than a set of 1800"),
        (of_shards(lambda shards: shards.reverse()), "other shards than a set of 1800"),
        (of_shards(lambda shards: shards.pop()), "other shards than a set of 1800"),
        (of_shards(lambda shards: shards.append(shards[0])), "other shards than a set of 1800"),
        (lambda manifest: manifest["plan"].update(shard_size="x"), "TypeError"),
        (lambda manifest: manifest["plan"].update(shard_size=0), "ZeroDivisionError"),
        (lambda manifest: manifest["plan"].update(shard_size=700), "not a whole number of shards"),
    ],
)
def test_a_manifest_that_cannot_be_so_is_named_and_closed_anew(pairs, tiny, change, fault):
    """The reader of one with a count too large would never come back."""
    path, plan = Path(pairs.uri("manifest-1800.json")), tiny.plan()
    sound = path.read_text()
    manifest = json.loads(sound)
    change(manifest)
    path.write_text(json.dumps(manifest))
    way_out = f"manifest-1800.json is damaged .*{fault}.*; delete it and run jobs/pairs.py again"
    for read in (
        lambda: shards.read_manifest(pairs),
        lambda: shards.finished(pairs, plan, 1800),
        lambda: shards.close(pairs, plan, 1800),
    ):
        with pytest.raises(UserError, match=way_out):
            read()
    path.unlink()
    assert shards.missing(pairs, plan, 1800) == []
    shards.close(pairs, plan, 1800)
    assert path.read_text() == sound


def test_a_set_is_finished_with_all_its_shards_and_its_manifest(pairs, tiny):
    plan = tiny.plan()
    assert shards.finished(pairs, plan, 1800) == shards.read_manifest(pairs)
    assert shards.finished(pairs, plan, 600) is None
    assert shards.finished(pairs, tiny.plan(seed=1), 1800) is None
    for name in ("manifest-1800.json", *pairs.list("pairs-")):
        content = pairs.get(name)
        pairs.delete(name)
        assert shards.finished(pairs, plan, 1800) is None
        pairs.put(name, content)
    Path(pairs.uri(first(pairs))).write_bytes(b"1")
    assert shards.finished(pairs, plan, 1800) is None
