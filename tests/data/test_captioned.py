"""Columns of metadata.csv, as people save it."""

from pathlib import Path

import pytest

from pipeline.data.captioned import load_columns
from pipeline.utils.errors import UserError

TABLE = "file_name,text,name\na.png,hello,one\nb.png,hé,two\n"


def columns(folder: Path, content: bytes) -> dict[str, list[str]]:
    (folder / "metadata.csv").write_bytes(content)
    return load_columns(str(folder), ("b.png", "a.png"), ["name"], "evaluate.held_out")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_are_read_with_and_without_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    assert columns(tmp_path, TABLE.encode(encoding)) == {"name": ["two", "one"]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TABLE.encode("latin-1"), r"metadata\.csv is not UTF-8 \(line 3 has the byte 0xe9\); save"),
        (b"file_name,text,name\na.png,hello\n", r"line 2 of .*metadata\.csv has 2 fields"),
        (TABLE.replace("name\n", "kind\n", 1).encode(), "no column or image 'name'"),
        (TABLE.replace("b.png", "c.png").encode(), r"no column or image 'b\.png'"),
    ],
)
def test_what_is_no_such_table_is_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"evaluate\.held_out: .*{told}"):
        columns(tmp_path, content)
