"""Nothing of a source is missing without a word: it is read, or counted by kind and first name."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.local import LocalStore
from pipeline.data.sources.place import open_place
from pipeline.data.sources.source import Source
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import items, save_files, save_parquet, save_tars
from tests.fixtures.listings import S3, annotations, left_out, listed, save, write


def test_files_are_read_or_counted_by_their_ending(tmp_path, capsys):
    source = save(tmp_path / "source", "a.png", "b.JPG", "c.jfif", "d.svg", "e.svg", "f.ico")
    for name in ("a.txt", "b.TXT", "c.txt", "d.txt", "notes", "._a.png", ".cache/x.png"):
        write(source / name, name)
    assert annotations(tmp_path, source) == {"a.png": "a.txt", "b.JPG": "b.TXT", "c.jfif": "c.txt"}
    assert left_out(capsys.readouterr().out) == (
        "7 others left out: 2 hidden (the first ._a.png), 2 .svg (the first d.svg), 1 .ico "
        "(f.ico), 1 without an ending (notes), 1 .txt (d.txt)"
    )


def test_a_source_that_is_read_whole_has_no_such_line(tmp_path, capsys):
    for number, save_some in enumerate((save_files, save_parquet, save_tars)):
        listed(tmp_path / f"{number}", save_some(tmp_path / f"{number}" / "source", items(4)))
    assert left_out(capsys.readouterr().out) == ""


def test_what_spark_leaves_is_no_data_but_a_photo_with_an_underscore_is(tmp_path, capsys):
    source = save_parquet(tmp_path / "rows", items(4))
    part = next(source.iterdir()).read_bytes()
    for name in ("_SUCCESS", "_temporary/0/part-0.parquet", "_delta_log/1.checkpoint.parquet"):
        write(source / name, part)
    assert len(annotations(tmp_path, source)) == 4
    assert left_out(capsys.readouterr().out) == (
        "3 others left out: 2 hidden (the first _delta_log/1.checkpoint.parquet), 1 without an "
        "ending (_SUCCESS)"
    )
    photos = save(tmp_path / "photos", "_DSC0001.JPG", "_temporary/x.jpg")
    assert list(annotations(tmp_path / "2", photos, "nothing")) == ["_DSC0001.JPG"]


def test_links_to_folders_are_followed_and_those_to_nowhere_counted(tmp_path, capsys):
    source = save(tmp_path / "source", "a.png", "inner/b.png")
    save(tmp_path / "elsewhere", "c.png", "deeper/d.png")
    (source / "more").symlink_to(tmp_path / "elsewhere")
    (source / "inner" / "up").symlink_to(source)
    (source / "gone.png").symlink_to("nothing.png")
    (source / "self.png").symlink_to("self.png")
    found = annotations(tmp_path, source, "nothing")
    assert list(found) == ["a.png", "inner/b.png", "more/c.png", "more/deeper/d.png"]
    assert left_out(capsys.readouterr().out) == (
        "3 others left out: 3 linked to nothing new (the first gone.png)"
    )


def test_a_folder_that_several_links_lead_to_is_listed_once(tmp_path, capsys):
    source = save(tmp_path / "source", "v1/1.png")
    save(tmp_path / "elsewhere", "2.png")
    for name, folder in (("latest", source / "v1"), ("x", tmp_path / "elsewhere")):
        (source / name).symlink_to(folder)
        (source / f"{name}-too").symlink_to(folder)
    assert list(annotations(tmp_path, source, "nothing")) == ["v1/1.png", "x/2.png"]
    assert left_out(capsys.readouterr().out) == (
        "3 others left out: 3 linked to nothing new (the first latest)"
    )


def test_a_folder_that_the_system_keeps_is_no_data(tmp_path, capsys, monkeypatch):
    source = save(tmp_path / "source", "a.png", "lost+found/b.png")
    scan = os.scandir

    def refusing(folder):
        if str(folder).endswith("lost+found"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert list(annotations(tmp_path, source, "nothing")) == ["a.png"]
    assert left_out(capsys.readouterr().out) == "1 other left out: 1 hidden (lost+found)"


def test_a_name_that_is_not_utf8_is_counted_and_shown(tmp_path, capsys):
    source = save(tmp_path / "source", "a.png")
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.png")).write_bytes(b"1")
    assert list(annotations(tmp_path, source, "nothing")) == ["a.png"]
    assert left_out(capsys.readouterr().out) == (
        r"1 other left out: 1 named not in UTF-8 (caf\xe9.png)"
    )


def test_without_images_the_message_says_what_is_there(tmp_path):
    source = save(tmp_path / "source", "a.svg", "b.svg", "c.zip")
    with pytest.raises(
        UserError, match=r"no images in .*source, but 2 .svg \(the first a.svg\), 1 "
    ):
        listed(tmp_path, source)


def _locked(monkeypatch, folder: Path) -> None:
    plain = os.scandir

    def scandir(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(folder))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_listed_ends_the_job(tmp_path, monkeypatch):
    source = save(tmp_path / "source", "a.png", "locked/b.png")
    _locked(monkeypatch, source / "locked")
    for look in (lambda: listed(tmp_path, source, "nothing"), LocalStore(source).tree):
        with pytest.raises(UserError, match="cannot list .*locked: Permission denied"):
            look()


def test_a_path_that_links_to_itself_is_one_clear_error(tmp_path):
    for name in ("source", "a.tar"):
        (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match="cannot list .*source: Too many levels of symbolic links"):
        listed(tmp_path, tmp_path / "source")
    with pytest.raises(UserError, match="encode.source: there is no .*a.tar"):
        listed(tmp_path, tmp_path / "a.tar")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").symlink_to("x")
    assert LocalStore(tmp_path / "folder").tree() == {}


def test_endings_are_in_any_case_and_a_folder_may_have_one(tmp_path, monkeypatch):
    for number, (old, new) in enumerate((("a.parquet", "A.PARQUET"), ("a.tar", "A.TAR"))):
        save_some = save_parquet if number == 0 else save_tars
        source = save_some(tmp_path / old, items(2))
        assert len(annotations(tmp_path / f"{number}", source)) == 2, "a folder, as Spark names it"
        one = sorted(source.iterdir())[0].rename(source / new)
        assert len(annotations(tmp_path / f"{number}1", one)) == 1
        assert len(annotations(tmp_path / f"{number}2", source)) == 2


def test_one_file_is_looked_at_alone_also_in_the_root(tmp_path):
    for path, folder in (("/x.parquet", "/"), ("x.parquet", "."), ("/a/x.tar", "/a")):
        place = open_place(path, S3, "encode.source")
        assert (place.store.folder, place.file) == (Path(folder), Path(path).name)
        assert place.versions() == {}


def test_images_without_a_caption_are_refused_or_left_out(tmp_path, capsys):
    source = save(tmp_path / "source", "a.png", "b.png", "c.png")
    write(source / "a.txt", "a")
    write(source / "b.txt", "\ufeff \n")
    message = "2 of 3 images have no caption, .*b.png; .*leave these images out .encode.unannotated"
    with pytest.raises(UserError, match=message):
        listed(tmp_path, source)
    assert annotations(tmp_path, source, skip=True) == {"a.png": "a"}
    assert left_out(capsys.readouterr().out) == (
        "2 others left out: 2 without a caption (the first b.png)"
    )
    assert annotations(tmp_path, source, skip=True) == {"a.png": "a"}, "the set goes on"
    said = left_out(capsys.readouterr().out)
    assert said.startswith("2 images without a caption left out, as ")
    with pytest.raises(
        UserError, match="encode.unannotated: refuse, .* leaves out 2 .*; give skip"
    ):
        listed(tmp_path, source)
    file = tmp_path / "set" / "listing.parquet"
    table = pq.read_table(file)
    made = {key: value for key, value in table.schema.metadata.items() if key != b"unannotated"}
    pq.write_table(table.replace_schema_metadata(made), file)
    assert annotations(tmp_path, source) == {"a.png": "a"}, "an older version's listing"
    with pytest.raises(UserError, match="hold no images, but 2 without a caption"):
        listed(tmp_path / "2", save(tmp_path / "none", "a.png", "b.png"), skip=True)


@pytest.mark.parametrize("nothing", [None, -1, -1.0, float("nan")])
def test_a_label_may_be_missing_in_four_ways(nothing, tmp_path, capsys):
    source = tmp_path / "a.parquet"
    image = save_files(tmp_path / "files", items(1)).joinpath("000.jpg").read_bytes()
    pq.write_table(pa.table({"image": [image] * 2, "label": [3.0, nothing]}), source)
    with pytest.raises(UserError, match="1 of 2 images have no label"):
        listed(tmp_path, source, "labels", 10)
    assert list(annotations(tmp_path, source, "labels", 10, skip=True).values()) == [3]
    assert "1 without a label (a.parquet at 1)" in capsys.readouterr().out


FINGERPRINTS = {
    ("files", "captions"): "9a7a7098817cbb4b0b7666bf61511d3983a39db44a5f63f80825e02bd908cfbe",
    ("files", "labels"): "86fd0b768c657518d3ef1662ea605d667d8041c3c9ae19ca6dcd0165aa990e43",
    ("rows", "nothing"): "9d175bbcae1b694b010bdd11d22194cb995f2fe4aa9ba54c1adecc508dd070b9",
    ("tars", "captions"): "f984db6378aade65eecf530b4ee4055da02ea371f2df18df8786d1e29caf1820",
    ("rows/train.parquet", "captions"): (
        "9279986343be15912bf8ef0a27b946df0bd477876a36e625d8904b53137435a9"
    ),
}
"""Of sources that older versions listed."""


def test_sets_that_were_begun_before_go_on(tmp_path):
    sizes = {
        "files/a.png": 1,
        "files/a.txt": 2,
        "files/sub/b.JPG": 3,
        "files/sub/metadata.jsonl": 4,
    }
    sizes |= {"files/README.md": 9, "files/.c.png": 9, "rows/train.parquet": 5, "rows/x.json": 9}
    sizes |= {"tars/0.tar": 6, "tars/1.tar": 7, "tars/0.parquet": 8}
    for name, size in sizes.items():
        os.utime(write(tmp_path / name, b"1" * size), ns=(0, 10**18))
    for (name, wanted), fingerprint in FINGERPRINTS.items():
        source = Source(str(tmp_path / name), S3, "encode.source")
        assert source.fingerprint(wanted, 10 if wanted == "labels" else None) == fingerprint
