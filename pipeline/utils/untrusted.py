"""What others may have written is data: read within bounds, as plain values, or a ValueError.

Whatever comes out of here can be counted with, shown and stored as YAML without further looks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json

from pipeline.utils.uris import masked

LARGEST = 2**24
"""Bytes of a file at most, where its reader says nothing else."""
LONGEST_LINE = 2**20
"""Bytes of one of many lines at most."""
_DEEPEST, _MOST, _LONGEST = 50, 100_000, 10_000
"""Levels in one another, values in all, and characters of a text at most."""
_HUGE, _TINY = 1e100, 1e-100
"""Above and below it there are no figures of ours."""

_Value = TypeVar("_Value")


def read_start(file: Path, most: int = LARGEST) -> bytes:
    """The first bytes of a file, which may have no end; raises OSError if it cannot be read."""
    with file.open("rb") as content:
        return content.read(most)


def read_json(data: bytes | str) -> Any:
    """The plain values of JSON.

    Raises:
        ValueError: If it is none, or beyond the bounds.
    """
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    return plain(from_json(data))


def read_lines(data: bytes, read: Callable[[Any], _Value]) -> tuple[list[_Value], int]:
    """JSON lines.

    Args:
        data: The lines; one that does not end is still being written, and left out if torn.
        read: Makes a line's value of its plain values; a ValueError: it is no such line.

    Returns:
        The values in order, and how many whole lines are damaged and left out.
    """
    *whole, last = data.split(b"\n")
    found, damaged = [], 0
    for line in (*whole, last):
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError
            found.append(read(read_json(line)))
        except ValueError:
            damaged += line is not last
    return found, damaged


def plain(tree: Any) -> Any:
    """Lists and mappings of texts, numbers, truths and None alone, as JSON and YAML have them.

    A number that is not finite, or far from all figures, is left out with its name. A text is cut,
    and has no credentials and no half of a character.

    Raises:
        ValueError: If there is too much in it.
    """
    if _strange(tree):
        raise ValueError(f"it is {tree}")
    return _Plain().of(tree)


class _Plain:
    """Counts the values that it has gone through."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, value: Any, depth: int = 0) -> Any:
        self._count += 1
        if depth > _DEEPEST or self._count > _MOST:
            raise ValueError(f"it has more than {_DEEPEST} levels or {_MOST:,} values")
        if isinstance(value, dict):
            kept = {name: each for name, each in value.items() if not _strange(each)}
            return {_text(name): self.of(each, depth + 1) for name, each in kept.items()}
        if isinstance(value, list | tuple):
            return [self.of(each, depth + 1) for each in value if not _strange(each)]
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if abs(value) > _TINY else 0.0
        return _text(value)


def _strange(value: Any) -> bool:
    return isinstance(value, int | float) and not abs(value) < _HUGE


def _text(value: Any) -> str:
    return masked(str(value)[:_LONGEST].encode(errors="replace").decode())
