"""Compressed tars, whose middle cannot be entered: unpacked into the cache, once on each node."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from pipeline.data.storage import BLOCK, Store
from pipeline.utils.files import CACHE_WAY_OUT, cache_folder, write_pieces

TarOpener = Callable[[], pa.NativeFile]
"""Opens a tar, to be read anywhere in it."""
_MAGIC = b"\x1f\x8b"


def unpacked(store: Store, name: str) -> TarOpener:
    """A tar as it is, or what a compressed one holds; its content decides, not its name.

    Raises:
        UserError: If it cannot be read, or the cache has no room for it.
        ValueError: If it is damaged.
    """
    with store.open(name) as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return partial(store.open, name)
        copy = cache_folder() / f"{_digest(store.uri(name), file)}.tar"
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy}.lock"):
            if not copy.is_file():
                file.seek(0)
                write_pieces(copy, _blocks(file), CACHE_WAY_OUT)
    return partial(_open, copy)


def _digest(where: str, file: pa.NativeFile) -> str:
    """Of an archive's address, size, begin and end, which has its checksum."""
    digest = hashlib.sha256(f"{where} {file.size()} ".encode())
    for start in (0, max(0, file.size() - BLOCK)):
        file.seek(start)
        digest.update(file.read(BLOCK))
    return digest.hexdigest()[:32]


def _open(copy: Path) -> pa.NativeFile:
    return pa.OSFile(str(copy))


def _blocks(file: pa.NativeFile) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(file, BLOCK)) as plain:
            yield from iter(partial(plain.read, BLOCK), b"")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"gzip: {error}") from error
