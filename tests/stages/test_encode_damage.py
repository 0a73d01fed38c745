"""Laws of encoding a source with images that cannot be read."""

import sys
from pathlib import Path

import pillow_heif
import pytest

from pipeline.data import crop, real, shards
from pipeline.data.reader import RealReader
from pipeline.stages.verify import inspect_real, verify_real
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import content, picture, save_files
from tests.fixtures.real_sets import by_id, configure, labelled, make, opened, store_of
from tests.fixtures.tiny_models import save_tiny


def test_damaged_images_are_left_out_counted_and_named(tmp_path, capsys):
    folder = labelled(tmp_path / "source")
    path = folder / "class-1" / "4.png"
    path.write_bytes(path.read_bytes()[:-40])
    (folder / "class-2" / "2.png").write_bytes(b"no image")
    config = configure(tmp_path, None, folder)
    reader, store = make(config), store_of(config)
    assert by_id(reader.batch(0)).ids.tolist() == [0, 1, 2, 3, 5, 7, 8]
    assert reader.manifest.count == 7
    found = list(real.damaged(store))
    assert [(each.id, each.image) for each in found] == [
        (4, "class-1/4.png"),
        (6, "class-2/2.png"),
    ]
    inspect_real(config)
    verify_real(config)
    printed = capsys.readouterr().out
    assert "left out 4 class-1/4.png: " in printed and "7 images are sound" in printed


def damage(folder: Path, *numbers: int) -> Path:
    """Break these images of a folder, by id."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix == ".png"]
    for number in numbers:
        paths[number].write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("lost", [[8], [0, 1, 2, 3], [4, 5, 6, 7]])
@pytest.mark.parametrize("captions", [True, False])
def test_a_shard_may_lose_all_its_images(tmp_path, lost, captions, capsys):
    pictures = [(f"{n}.png", content(picture(n, (16, 16))), f"picture {n}") for n in range(9)]
    source = tmp_path / "source"
    folder = save_files(source, pictures) if captions else labelled(source)
    teacher = save_tiny(tmp_path / "teacher") if captions else None
    config = configure(tmp_path / "run", teacher, damage(folder, *lost))
    reader, left = make(config), sorted({*range(9)} - {*lost})
    assert by_id(reader.batch(0)).ids.tolist() == left
    assert sorted(RealReader(store_of(config), 1, 4).batch(7).ids.tolist())[0] in left
    inspect_real(config)
    verify_real(config)
    printed = capsys.readouterr().out
    assert f"{len(left)} in 3 shards" in printed and f"{len(left)} images are sound" in printed


def test_too_many_lost_images_do_not_close_the_set_until_the_setting_allows_it(tmp_path):
    config = configure(tmp_path, None, damage(labelled(tmp_path / "source"), 0, 1, 2, 5, 8))
    maker, store = opened(config), store_of(config)
    for index in range(3):
        maker.make(index)
    told = (
        r"encode.max_damaged 0.5: 5 of 9 images cannot be read, the first of them class-0/0.png "
        r"\(id 0\): no JPEG.*; class-0/3.png .*; class-0/6.png .*raise encode.max_damaged and run"
    )
    with pytest.raises(UserError, match=told) as error:
        real.close(store, maker.plan, 0.5)
    assert "class-1" not in str(error.value) and not store.list("manifest-")
    assert not shards.missing(store, maker.plan, 9)
    assert real.close(store, maker.plan, 0.6).count == 4


def test_a_set_without_one_image_is_not_closed(tmp_path):
    config = configure(tmp_path, None, damage(labelled(tmp_path / "source"), *range(9)))
    maker = opened(config)
    maker.make(2)
    maker.make(0)
    maker.make(1)
    with pytest.raises(UserError, match="encode.source: 9 of 9 images cannot be read.*give images"):
        real.close(store_of(config), maker.plan, 1.0)


def test_where_nothing_can_be_read_the_work_ends_soon_and_may_go_on(tmp_path):
    folder = damage(labelled(tmp_path / "source"), 0, 1, 2, 3, 4, 5)
    config = configure(tmp_path, None, folder, shard_size=2)
    maker = opened(config)
    maker.make(0)
    maker.make(1)
    with pytest.raises(
        UserError, match="encode.source: not one of 6 images can be read, the .*id 0"
    ):
        maker.make(2)
    again = opened(config)
    assert shards.missing(store_of(config), again.plan, 9) == [3, 4]
    again.make(3)
    again.make(4)
    assert real.close(store_of(config), again.plan, 0.7).count == 3


NOTE = "damaged-000000000000-000000000004.json"


@pytest.mark.parametrize("lost", [[0], []])
def test_a_node_that_reads_other_images_is_refused(tmp_path, lost):
    maker = opened(configure(tmp_path, None, damage(labelled(tmp_path / "source"), *lost)))
    maker._store.put(NOTE, b'[{"id": 1, "image": "x", "reason": "y"}]')
    with pytest.raises(UserError, match=f"{NOTE} lists other images than this node cannot"):
        maker.make(0)


def test_a_note_in_the_words_of_an_earlier_version_is_the_same(tmp_path):
    config = configure(tmp_path, None, damage(labelled(tmp_path / "source"), 0))
    note = b'[{"id": 0, "image": "class-0/0.png", "reason": "no JPEG, PNG image"}]'
    opened(config)._store.put(NOTE, note)
    assert make(config).manifest.count == 8
    assert store_of(config).get(NOTE) == note


def test_an_image_that_is_gone_is_no_damaged_one(tmp_path):
    folder = labelled(tmp_path / "source")
    maker = opened(configure(tmp_path, None, folder))
    (folder / "class-0" / "0.png").unlink()
    with pytest.raises(UserError, match="cannot read .*class-0/0.png"):
        maker.make(0)


def test_what_only_this_node_cannot_read_is_no_damaged_image(tmp_path, monkeypatch):
    folder = labelled(tmp_path / "source")
    pillow_heif.from_pillow(picture(0)).save(folder / "a.heic")
    (folder / "a.heic").rename(folder / "class-0" / "0.png")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    crop.open_heif.cache_clear()
    config = configure(tmp_path, None, folder)
    with pytest.raises(UserError, match="HEIC image, which needs pillow-heif on every node"):
        opened(config).make(0)
    assert not store_of(config).list("damaged-")
    monkeypatch.undo()
    assert make(config).manifest.count == 9
