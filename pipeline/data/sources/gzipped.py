"""Compressed tars, whose middle cannot be entered: unpacked into the cache, once on each node."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.data.storage import Store
from pipeline.utils.files import cache_folder, write_pieces

Opener = Callable[[], pa.NativeFile]
"""Opens a tar, to be read anywhere in it."""
_MAGIC = b"\x1f\x8b"
_BLOCK = 2**20
_TRAILER = 8
"""Bytes at the end with the checksum and the size of what is packed."""


def unpacked(store: Store, name: str) -> Opener:
    """A tar as it is, or what a compressed one holds; its content decides, not its name.

    Raises:
        UserError: If it cannot be read, or the cache has no room for it.
        ValueError: If it is damaged.
    """
    with store.open(name) as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return partial(store.open, name)
        file.seek(max(0, file.size() - _TRAILER))
        key = hashlib.sha256(f"{store.uri(name)} {file.size()} ".encode() + file.read(_TRAILER))
        copy = cache_folder() / f"{key.hexdigest()[:32]}.tar"
        if not copy.is_file():
            file.seek(0)
            write_pieces(copy, _blocks(file))
    return partial(_open, copy)


def _open(copy: Path) -> pa.NativeFile:
    return pa.OSFile(str(copy))


def _blocks(file: pa.NativeFile) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(file, _BLOCK)) as plain:
            yield from iter(partial(plain.read, _BLOCK), b"")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"gzip: {error}") from error
