"""Captions and labels in text beside images: metadata tables and .txt, as people write them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.utils.errors import UserError
from tests.fixtures.listings import annotations, left_out, listed, save, write


def source(tmp_path: Path, table: str, text: str | bytes, *images: str) -> Path:
    """Images with a table beside them."""
    folder = save(tmp_path / "source", *(images or ("a.png",)))
    write(folder / table, text)
    return folder


def line(**row: object) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("table", "text", "said"),
    [
        ("metadata.csv", "\ufefffile_name,text\r\na.png, a cat \r\n", "a cat"),
        ("metadata.CSV", 'file_name,text\na.png,"a cat,\n12"" tall"\n', 'a cat,\n12" tall'),
        ("metadata.jsonl", "\ufeff" + line(file_name="a.png", text="a"), "a"),
        ("metadata.jsonl", line(file_name="a.png", text="a\u2028b"), "a\u2028b"),
        ("metadata.jsonl", line(file_name="./b/../a.png", text="a"), "a"),
    ],
)
def test_a_table_is_read_as_people_write_it(table, text, said, tmp_path):
    assert annotations(tmp_path, source(tmp_path, table, text)) == {"a.png": said}


def test_a_table_may_be_parquet(tmp_path, capsys):
    folder = save(tmp_path / "source", "a.png", "b/c.png", "d.png")
    table = pa.table({"file_name": ["a.png", "b/c.png"], "Text": ["a", "c"], "label": [3, 4]})
    pq.write_table(table, folder / "metadata.parquet")
    write(folder / "d.txt", "d")
    write(folder / "a.txt", "not read")
    assert annotations(tmp_path, folder) == {"a.png": "a", "b/c.png": "c", "d.png": "d"}
    assert left_out(capsys.readouterr().out) == "1 other left out: 1 .txt (a.txt)"
    (folder / "d.png").unlink()
    assert list(annotations(tmp_path / "2", folder, "labels", 10).values()) == [3, 4]
    assert left_out(capsys.readouterr().out) == "2 others left out: 2 .txt (the first a.txt)"
    pq.write_table(table.drop_columns("file_name"), folder / "metadata.parquet")
    with pytest.raises(UserError, match="metadata.parquet has no column file_name; it has Text"):
        listed(tmp_path / "3", folder)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (
            "metadata.csv",
            "file_name,text\na.png,a cat, sitting\n",
            "line 2 of .*3 fields, the head",
        ),
        (
            "metadata.csv",
            'file_name,text\na.png,"a 12 inch\nb.png,b\n',
            "row from line 2 of .*quot",
        ),
        ("metadata.csv", "file_name,text,text\na.png,a,b\n", "has two columns 'text'; rename"),
        ("metadata.csv", "file_name,Text,text\na.png,a,b\n", "two columns, Text and text; rename"),
        ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", "line 2 has the byte 0xe9"),
        (
            "metadata.csv",
            "file_name;text\na.png;a\n",
            "a row without file_name; it has file_name;te",
        ),
        (
            "metadata.csv",
            "file_name,text\na.png,one\na.png,two\n",
            "names a.png once more, .*keep one",
        ),
        (
            "metadata.csv",
            "file_name,text\nimg\\a.png,a\n",
            r"names the image img.a.png, .*write / for",
        ),
        ("metadata.csv", "file_name,text\n../a.png,a\n", "names the image ../a.png, .*not there"),
        (
            "metadata.jsonl",
            line(file_name="a.png", text=["a", {}]),
            "a.png in .*the caption '{}', not text",
        ),
        ("metadata.jsonl", line(file_name="a.png") + "[]", "line 2 of .* no JSON object, but list"),
        ("metadata.csv", "file_name,text\na.svg,a\n", "a.svg, which has not the ending of an imag"),
        ("metadata.csv", "file_name,text\na.png,\n", "1 of 1 images have no caption"),
        ("metadata.jsonl", line(file_name="a.png", text=None), "1 of 1 images have no caption"),
    ],
)
def test_a_table_that_says_two_things_or_nothing_is_refused(table, text, message, tmp_path):
    with pytest.raises(UserError, match=f"encode.source: .*{message}"):
        listed(tmp_path, source(tmp_path, table, text))


def test_a_table_without_what_is_wanted_hides_neither_texts_nor_folders(tmp_path):
    folder = source(tmp_path, "metadata.csv", "file_name,width\n3/a.png,12\n", "3/a.png")
    write(folder / "3" / "a.txt", "a")
    assert annotations(tmp_path / "1", folder) == {"3/a.png": "a"}
    assert annotations(tmp_path / "2", folder, "labels", 10) == {"3/a.png": 3}


def test_two_tables_or_texts_of_one_image_are_refused(tmp_path):
    folder = source(tmp_path, "metadata.csv", "file_name,text\na.png,a\n")
    write(folder / "metadata.jsonl", line(file_name="a.png", text="b"))
    with pytest.raises(UserError, match="metadata.jsonl names a.png once more"):
        listed(tmp_path, folder)
    other = save(tmp_path / "texts", "a.png")
    write(other / "a.txt", "a")
    write(other / "a.TXT", "b")
    with pytest.raises(UserError, match="a.TXT and a.txt are captions of one image; delete one"):
        listed(tmp_path, other)


def test_a_caption_is_of_the_same_stem_whatever_dots_it_has(tmp_path):
    folder = save(tmp_path / "source", "my.cat.photo.jpg", "A.JPG")
    write(folder / "my.cat.photo.txt", "\ufeffa cat")
    write(folder / "a.txt", "of another")
    assert annotations(tmp_path, folder, skip=True) == {"my.cat.photo.jpg": "a cat"}
