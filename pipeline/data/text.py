"""Text as people have it: one reader of its bytes, lines, tables and records for all of them."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

_WIDEST = 2**30
"""Characters of a field of CSV; Python's own habit ends at 131,072."""
_OTHERS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "a zip or Excel file"}
"""First bytes -> what people also save text as."""


class TextError(Exception):
    """What is wrong with a text: file, line and way out; whoever reads it adds the setting."""


def decode(data: bytes, where: str) -> str:
    """UTF-8, with or without a byte order mark.

    Args:
        data: The content of a file.
        where: Its address, for messages.

    Raises:
        TextError: If it is another encoding, or no text; names the line.
    """
    broken = data.find(0)
    try:
        if broken < 0:
            return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        broken = error.start
    known = next((kind for mark, kind in _OTHERS.items() if data.startswith(mark)), None)
    line = data.count(b"\n", 0, broken) + 1
    what = f"it is {known}" if known else f"line {line} has the byte 0x{data[broken]:02x}"
    raise TextError(f"{where} is not UTF-8 ({what}); save it as UTF-8")


def lines(text: str) -> Iterator[str]:
    """Lines, which end at LF, CR LF or CR and nothing else (a form feed is part of a caption)."""
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None))


def records(text: str, where: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines; empty lines are passed over.

    Raises:
        TextError: As `record`; names the line.
    """
    for number, line in enumerate(lines(text), 1):
        if line.strip():
            yield record(line, f"line {number} of {where}")


def record(text: str, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        TextError: If it is none, or has half of a character, which no file can hold.
    """
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"{where} has half of a character (a lone surrogate); write it anew from its source"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where} is no JSON object ({error}); mend it") from error
    if not isinstance(found, dict):
        raise TextError(f"{where} is no JSON object, but {type(found).__name__}; mend it")
    return found


def rows(text: str, where: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by its header, every value as text.

    Raises:
        TextError: If a quote is not closed, a row has other fields than the header, or two columns
            have one name; names the line.
    """
    csv.field_size_limit(_WIDEST)
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(table, [])
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise TextError(f"{where} has two columns {twice[0]!r}; rename one")
        begin = table.line_num + 1
        for row in table:
            if row and len(row) != len(header):
                raise TextError(
                    f"line {begin} of {where} has {len(row)} fields, the header {len(header)}; put "
                    "a value with a comma in double quotes"
                )
            if row:
                yield dict(zip(header, row, strict=True))
            begin = table.line_num + 1
    except csv.Error as error:
        raise TextError(
            f"the row from line {begin} of {where} is no CSV ({error}); close its quotes"
        ) from error
