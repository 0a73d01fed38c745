"""Text as people have it: one reader of its bytes, lines, tables and records for all of them."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from pipeline.data.storage import BLOCK

_WIDEST = 2**30
"""Characters of a field of CSV; Python's own habit ends at 131,072."""
_OTHERS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "a zip or Excel file"}
"""First bytes -> what people also save text as."""


class TextError(Exception):
    """What is wrong with a text: file, line and way out; whoever reads it adds the setting."""


def lines(file: Any, where: str) -> Iterator[str]:
    """Lines of a file of UTF-8, with or without a byte order mark; a block of it is in memory.

    They end at LF, CR LF or CR and nothing else (a form feed is part of a caption), and keep that.

    Args:
        file: To be read as bytes.
        where: Its address, for messages.

    Raises:
        TextError: If it is another encoding, or no text; names the line.
    """
    blocks, number = io.BufferedReader(file, BLOCK), 0
    begin = blocks.peek(BLOCK)[:2]
    try:
        for number, line in enumerate(io.TextIOWrapper(blocks, "utf-8-sig", newline=""), 1):
            if "\0" in line:
                raise _not_text(where, begin, number, 0)
            yield line
    except UnicodeDecodeError as error:
        before = error.object[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        number += before.count(b"\n") + 1
        raise _not_text(where, begin, number, error.object[error.start]) from error


def _not_text(where: str, begin: bytes, line: int, byte: int) -> TextError:
    known = _OTHERS.get(begin)
    what = f"it is {known}" if known else f"line {line} has the byte 0x{byte:02x}"
    return TextError(f"{where} is not UTF-8 ({what}); save it as UTF-8")


def decode(data: bytes, where: str) -> str:
    """The content of a file of UTF-8, whole; raises as `lines`."""
    with suppress(UnicodeDecodeError):
        if "\0" not in (text := data.decode("utf-8-sig")):
            return text
    return "".join(lines(io.BytesIO(data), where))  # names the line


def records(lines: Iterable[str], where: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines; empty lines are passed over.

    Raises:
        TextError: As `record`; names the line.
    """
    for number, line in enumerate(lines, 1):
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


def rows(lines: Iterable[str], where: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by its header, every value as text.

    Args:
        lines: Of the file, with their ends.
        where: Its address, for messages.

    Raises:
        TextError: If a quote is not closed, a row has other fields than the header, or two columns
            have one name; names the line.
    """
    csv.field_size_limit(_WIDEST)
    table = csv.reader(lines, strict=True)
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
