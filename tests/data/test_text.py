"""One reader of text: encodings, ends of lines, CSV and JSON Lines."""

import io
import json

import pytest

from pipeline.data.text import TextError, decode, lines, record, records, rows

ENDS = [(number, ("\n", "\r\n")[number % 2]) for number in range(60_000)]


def read(data: bytes) -> list[str]:
    return list(lines(io.BytesIO(data), "f"))


def test_lines_end_at_three_marks_alone_and_a_mark_of_order_is_no_text() -> None:
    content = "a\u2028b\x85c\x0cd\x1ce\r\nf\rg\n\nh"
    data = f"\ufeff{content}".encode()
    assert read(data) == ["a\u2028b\x85c\x0cd\x1ce\r\n", "f\r", "g\n", "\n", "h"]
    assert decode(data, "f") == content
    assert read(b"") == []
    found = [{"caption": "a\u2028b"}, {"caption": "c"}]
    file = "\n".join(json.dumps(each, ensure_ascii=False) for each in found)
    assert list(records(read(f"{file}\n\n".encode()), "f")) == found


def test_a_line_is_found_wherever_it_stands() -> None:
    """Also beyond what is read at once, and with an end between two blocks."""
    many = [f"{number} {'é' * (number % 50)}{end}" for number, end in ENDS]
    data = "".join(many).encode()
    assert len(data) > 2**21 and read(data) == many
    with pytest.raises(TextError, match=rf"line {len(many) + 1} has the byte 0xe9"):
        read(data + b"\xe9\n")
    with pytest.raises(TextError, match=rf"line {len(many) + 1} has the byte 0x00"):
        read(data + b"a\0b\n")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("a\ncafé".encode("latin-1"), "line 2 has the byte 0xe9"),
        ("a".encode("utf-16"), "it is UTF-16"),
        ("a".encode("utf-16-le"), "line 1 has the byte 0x00"),
        ("a\rb\r\nc\ré\n".encode("latin-1"), "line 4 has the byte 0xe9"),
        (b"PK\x03\x04\xff", "it is a zip or Excel file"),
    ],
)
def test_another_encoding_is_named_with_its_line(data: bytes, told: str) -> None:
    with pytest.raises(TextError, match=rf"f is not UTF-8 \({told}\); save it as UTF-8"):
        decode(data, "f")


def test_a_table_is_text_and_may_have_breaks_and_quotes_in_its_fields() -> None:
    wide = "x" * 200_000
    text = f'id,prompt\r\n007,"two\r\nlines, ""quoted"""\r\n\r\ntrue,a 12" pizza\r\n0,{wide}\r\n'
    assert list(rows(read(text.encode()), "f")) == [
        {"id": "007", "prompt": 'two\r\nlines, "quoted"'},
        {"id": "true", "prompt": 'a 12" pizza'},
        {"id": "0", "prompt": wide},
    ]
    assert list(rows([], "f")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n3,x, y\n", "line 3 of f has 3 fields, the header 2; put a value with a comma"),
        ('a,b\n1,"x\ny"\n3\n', "line 4 of f has 1 fields, the header 2"),
        ("a,b,a\n1,2,3\n", "f has two columns 'a'; rename one"),
        ('a,b\n1,2\n3,"x\n4,y\n', r"the row from line 3 of f is no CSV \(unexpected end"),
        ('a\n"x" y\n', "the row from line 2 of f is no CSV"),
    ],
)
def test_a_table_that_says_two_things_is_named_with_its_line(text: str, told: str) -> None:
    with pytest.raises(TextError, match=told):
        list(rows(read(text.encode()), "f"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": "\\ud83d"}', "has half of a character"),
        ("[1]", "is no JSON object, but list"),
        ("{", "is no JSON object"),
        ("[" * 100_000, "is no JSON object"),
    ],
)
def test_a_record_that_is_none_is_named(text: str, told: str) -> None:
    with pytest.raises(TextError, match=f"^f {told}"):
        record(text, "f")
    with pytest.raises(TextError, match=f"^line 2 of f {told}"):
        list(records(['{"a": 1}\n', text], "f"))
