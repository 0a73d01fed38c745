"""Laws of sources: which image has which id, its annotation, and its bytes."""

import csv
import json
import tarfile
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from pipeline.config import S3Config
from pipeline.data import s3
from pipeline.data.local import LocalStore
from pipeline.data.sources import listing
from pipeline.data.sources.listing import Listing, open_listing
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import LAYOUTS, add, items, save_files, save_tars
from tests.fixtures.listings import IMAGE, S3, annotations, listed, save, write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_captions(layout, tmp_path):
    some = items(11)
    source = LAYOUTS[layout](tmp_path / "source", some)
    found = listed(tmp_path, source)
    assert found.count == 11
    samples = [each for ids in (range(5), range(5, 11)) for each in found.samples(ids)]
    assert [each.annotation for each in samples] == [caption for _, _, caption in some]
    reader = Listing(LocalStore(tmp_path / "set")).reader(str(source), S3)
    assert [reader.read(each) for each in samples] == [data for _, data, _ in some]
    assert reader.read(samples[0]) == some[0][1], "again, after others"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_is_listed_once_and_a_changed_one_is_refused(layout, tmp_path, monkeypatch):
    source = LAYOUTS[layout](tmp_path / "source", items(6))
    first = listed(tmp_path, source)
    with monkeypatch.context() as patch:
        patch.setattr(listing.Source, "table", None)
        assert listed(tmp_path, source).source == first.source
    (source / "README.md").write_text("not part of it")
    assert listed(tmp_path, source).source == first.source
    with pytest.raises(UserError, match="encode.source: .* has changed since; choose another"):
        listed(tmp_path, source, "nothing")
    some = sorted(path for path in source.iterdir() if path.suffix != ".md")[-1]
    some.write_bytes(some.read_bytes() + b" ")
    with pytest.raises(UserError, match="encode.source: .* has changed since; choose another"):
        listed(tmp_path, source)


def test_ids_reach_across_the_listings_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "GROUP", 4)
    found = listed(tmp_path, save_files(tmp_path / "source", items(11)))
    for ids in (range(0, 4), range(3, 9), range(10, 11)):
        assert [each.annotation for each in found.samples(ids)] == [f"picture {id}" for id in ids]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_stand_in_a_table_beside_the_images(kind, tmp_path):
    source = save(tmp_path / "source", "train/a.png", "train/sub/b.png", "c.png")
    (source / "c.txt").write_text(" from text \n")
    rows = [
        {"file_name": "a.png", "Text": "first, with a comma"},
        {"file_name": "./sub/b.png", "Text": "second"},
    ]
    with (source / "train" / f"metadata.{kind}").open("w") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, ["file_name", "Text"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
    assert annotations(tmp_path, source) == {
        "c.png": "from text",
        "train/a.png": "first, with a comma",
        "train/sub/b.png": "second",
    }


def test_labels_are_folders_by_name_or_by_number(tmp_path, capsys):
    named = save(tmp_path / "named", "train/cat/1.png", "train/ant/1.png", "train/bee/1.png")
    assert list(annotations(tmp_path / "1", named, "labels", 3).values()) == [0, 1, 2]
    assert "folders: ant is 0, bee is 1, cat is 2\n" in capsys.readouterr().out
    split = save(tmp_path / "split", "cat/train/1.png", "cat/val/1.png", "dog/train/1.png")
    with pytest.raises(UserError, match="folders named train, val, which are no classes"):
        annotations(tmp_path / "5", split, "labels", 2)
    numbered = save(tmp_path / "numbered", "10/a.png", "9/b.png")
    assert annotations(tmp_path / "2", numbered, "labels", 1000) == {"10/a.png": 10, "9/b.png": 9}
    with pytest.raises(UserError, match=r"3 folders of images \(ant, .* teacher's 10 classes"):
        annotations(tmp_path / "3", named, "labels", 10)
    with pytest.raises(UserError, match="label 10, but the teacher has 10 classes, 0 to 9"):
        annotations(tmp_path / "4", numbered, "labels", 10)


def test_labels_stand_in_columns_cls_members_and_json(tmp_path):
    (tmp_path / "rows").mkdir()
    table = pa.table({"img": [{"bytes": IMAGE, "path": None}] * 2, "label": [7, 3]})
    pq.write_table(table, tmp_path / "rows" / "a.parquet")
    found = annotations(tmp_path / "1", tmp_path / "rows" / "a.parquet", "labels", 10)
    assert list(found.values()) == [7, 3]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "x.cls", b"4\n")
        add(archive, "x.PNG", IMAGE)
        add(archive, "y.png", IMAGE)
        add(archive, "y.json", b'{"label": 5}')
        add(archive, "z.json", b"no image")
    found = annotations(tmp_path / "2", tmp_path / "a.tar", "labels", 10)
    assert list(found.values()) == [4, 5]


def test_metadata_in_parquet_does_not_hide_images_nor_tars(tmp_path):
    """As img2dataset leaves them."""
    source = save(tmp_path / "source", "00000/1.png", "00000/2.png")
    pq.write_table(pa.table({"caption": ["a", "b"]}), source / "00000.parquet")
    assert len(annotations(tmp_path / "1", source, "nothing")) == 2
    save_tars(source / "tars", items(5))
    assert len(annotations(tmp_path / "2", source, "nothing")) == 5


def test_hidden_files_are_no_part_of_a_source(tmp_path):
    source = save(tmp_path / "source", "a.png", ".cache/b.png", "__MACOSX/c.png", "._a.png")
    assert list(annotations(tmp_path, source, "nothing")) == ["a.png"]


@pytest.fixture
def bucket(monkeypatch):
    """A client of S3 with an empty bucket."""
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "CONFIG_FILE": "/"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        s3._connect.cache_clear()
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client
    s3._connect.cache_clear()


REGION = S3Config(region="us-east-1")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bucket_is_listed_and_read_where_it_is(layout, tmp_path, bucket):
    some = items(7)
    folder = LAYOUTS[layout](tmp_path / "source", some)
    for path in folder.iterdir():
        bucket.put_object(Bucket="bucket", Key=f"in/{path.name}", Body=path.read_bytes())
    store = Storage("s3://bucket/set", REGION, "pairs.output")
    found = open_listing(store, "s3://bucket/in/", REGION, "captions", None)
    reader, samples = found.reader("s3://bucket/in/", REGION), found.samples(range(7))
    assert [each.annotation for each in samples] == [caption for _, _, caption in some]
    assert [reader.read(each) for each in samples] == [data for _, data, _ in some]
    bucket.put_object(Bucket="bucket", Key="in/new.png", Body=IMAGE)
    bucket.put_object(Bucket="bucket", Key="in/new.tar", Body=b"")
    with pytest.raises(UserError, match="has changed since"):
        open_listing(store, "s3://bucket/in/", REGION, "captions", None)


def test_a_key_may_have_empty_parts_and_a_server_may_list_no_etags(tmp_path, bucket, monkeypatch):
    text = b'{"file_name": "c.png", "text": "c"}'
    objects = {"a//b.png": IMAGE, "a//b.txt": b"b", "a//c.png": IMAGE, "a//metadata.jsonl": text}
    for name, data in (objects | {"/d.png": IMAGE, "/d.txt": b"d", "empty/": b""}).items():
        bucket.put_object(Bucket="bucket", Key=f"in/{name}", Body=data)
    plain = s3.S3Store._found

    def without_etag(self, prefix):
        for name, found in plain(self, prefix):
            yield name, {key: value for key, value in found.items() if key != "ETag"}

    monkeypatch.setattr(s3.S3Store, "_found", without_etag)
    store = LocalStore(tmp_path / "set")
    found = open_listing(store, "s3://bucket/in", REGION, "captions", None)
    samples = found.samples(range(3))
    said = {each.name: each.annotation for each in samples}
    assert said == {"/d.png": "d", "a//b.png": "b", "a//c.png": "c"}
    assert found.reader("s3://bucket/in", REGION).read(samples[1]) == IMAGE
    bucket.put_object(Bucket="bucket", Key="in/a//b.png", Body=IMAGE + b"1")
    with pytest.raises(UserError, match="has changed since"):
        open_listing(store, "s3://bucket/in", REGION, "captions", None)


def _cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def _no_image(path: Path) -> Path:
    pq.write_table(pa.table({"caption": ["a"], "width": [3]}), path)
    return path


def _no_caption(path: Path) -> Path:
    pq.write_table(pa.table({"image": [IMAGE], "similarity": [0.3]}), path)
    return path


def _one_without(path: Path) -> Path:
    pq.write_table(pa.table({"image": [IMAGE, IMAGE], "text": ["a", None]}), path)
    return path


def _number(path: Path) -> Path:
    pq.write_table(pa.table({"image": [IMAGE], "text": [3]}), path)
    return path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda at: at / "nowhere", "no images in .*nowhere: nothing is there; give a folder of"),
        (lambda at: at / "nowhere.parquet", "there is no .*nowhere.parquet"),
        (lambda at: write(at / "x" / "a.svg", b"1").parent, "no images in"),
        (lambda at: _no_image(at / "a.parquet"), "a.parquet has no column of images .*caption, wi"),
        (lambda at: _no_caption(at / "a.parquet"), "no column of captions; it has image, simil"),
        (lambda at: _one_without(at / "a.parquet"), "1 of 2 images have no caption, the first in"),
        (lambda at: _number(at / "a.parquet"), "row 0 of .*a.parquet has the caption '3', not te"),
        (lambda at: write(at / "a.parquet", b"PAR1 torn"), "cannot read .*a.parquet.*fetch the"),
        (lambda at: save(at / "x", "a.png"), "1 of 1 images have no caption, .*a.png; the teacher"),
        (
            lambda at: write(save(at / "x", "a.png") / "a.txt", b"\xff").parent,
            "a.txt is not UTF-8",
        ),
        (
            lambda at: write(at / "x" / "metadata.jsonl", b'{"file_name": "b.png"}').parent,
            "no images",
        ),
        (
            lambda at: write(save(at / "x", "a.png") / "metadata.jsonl", b"[1]").parent,
            "line 1 of .*metadata.jsonl is no JSON object",
        ),
        (
            lambda at: (
                write(save(at / "x", "a.png") / "metadata.jsonl", b'{"file_name": "b.png"}').parent
            ),
            "metadata.jsonl names the image b.png, which is not there; correct",
        ),
        (
            lambda at: write(save(at / "x", "a.png") / "metadata.csv", b"a,b\n1,2\n").parent,
            "metadata.csv has a row without file_name",
        ),
        (lambda at: write(at / "a.tar", b""), "cannot read .*a.tar"),
        (lambda at: write(at / "a.tar", b"nothing" * 1000), "cannot read .*a.tar"),
    ],
)
def test_what_cannot_be_listed_is_one_clear_error(source, message, tmp_path):
    with pytest.raises(UserError, match=f"encode.source: .*{message}") as error:
        listed(tmp_path, source(tmp_path))
    assert "\n" not in str(error.value)
    assert not LocalStore(tmp_path / "set").list()


def test_a_damaged_listing_is_named(tmp_path):
    source = save(tmp_path / "source", "a.png", "b.png", "c.png")
    listed(tmp_path, source, "nothing")
    file = tmp_path / "set" / "listing.parquet"
    pq.write_table(pq.read_table(file), file, row_group_size=2)
    with pytest.raises(UserError, match="listing.parquet is damaged"):
        listed(tmp_path, source, "nothing").samples(range(3))
    _cut(file, 50)
    with pytest.raises(UserError, match="listing.parquet is damaged"):
        listed(tmp_path, source, "nothing")
