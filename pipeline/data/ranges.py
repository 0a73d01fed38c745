"""A remote object as a file, and patience with what brings its bytes."""

import io
import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 6
"""Tries of one request: throttling, 5xx and broken connections are waited out."""
_Result = TypeVar("_Result")


class BrokenError(Exception):
    """The connection broke while a body was read."""


def patient(read: Callable[[], _Result]) -> _Result:
    """What `read` gives, again and again where the connection breaks.

    Raises:
        BrokenError: If it breaks `ATTEMPTS` times.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return read()
        except BrokenError:
            time.sleep(min(0.1 * 2**attempt, 5))
    return read()


def whole(body: bytes, size: int) -> bytes:
    """A body that has so many bytes.

    Raises:
        BrokenError: If it has others.
    """
    if len(body) != size:
        raise BrokenError(f"{len(body)} bytes, {size} expected")
    return body


class Ranges(io.RawIOBase):
    """An object as a file that fetches the bytes asked for, and no others.

    Args:
        part: Gives the bytes from the first to the last, both included.
        size: Of the object, in bytes.
    """

    def __init__(self, part: Callable[[int, int], bytes], size: int) -> None:
        self._part, self._size, self._at = part, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = self._part(self._at, stop - 1)
        self._at += len(data)
        return data
