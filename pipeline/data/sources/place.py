"""Where a source is: its files and their versions, here or in a bucket."""

import errno
import os
import tarfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.config import S3Config
from pipeline.data.local import version
from pipeline.data.sources.left_out import is_hidden
from pipeline.data.sources.sample import SourceError
from pipeline.data.storage import Storage, Store
from pipeline.utils.errors import UserError

SINGLE = (".parquet", ".tar", ".tar.gz", ".tgz")
"""Endings of a path that names one file."""
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Place:
    """A folder, or one file in it.

    Attributes:
        store: Of the folder.
        file: Name of the one file that is meant; None for all.
    """

    store: Storage
    file: str | None

    def versions(self) -> dict[str, str | None]:
        """Name -> version of all files, sorted; None for a link that leads to nothing new.

        A hidden folder that cannot be listed, as a disk's own, is one name with the version "".
        Links to folders are followed, each folder once: where it is, before any link to it.

        Raises:
            UserError: If the store refuses, or a folder cannot be listed.
        """
        folder = self.store.folder
        if folder is None:
            found = self.store.tree()
            names = found if self.file is None else found.keys() & {self.file}
            return {name: found[name] for name in names}
        if self.file is None:
            return dict(sorted(_walk(folder)))
        mark = _version(folder / self.file)
        return {self.file: mark} if mark else {}


def open_place(path: str, s3: S3Config, setting: str) -> Place:
    """The place at a path.

    Args:
        path: A folder or one of the `SINGLE` files; a bucket's folder that ends as these do is
            given with a / at its end.
        s3: Where S3 is.
        setting: The setting that names it, for messages.
    """
    if path.lower().endswith(SINGLE) and not os.path.isdir(path):
        folder, name = os.path.split(path)
        return Place(Storage(folder or ".", s3, setting), name)
    return Place(Storage(path.rstrip("/") or "/", s3, setting), None)


@contextmanager
def reading(store: Store, name: str) -> Iterator[None]:
    """Names the file that cannot be read.

    Raises:
        SourceError: If the block meets a damaged file.
    """
    try:
        yield
    except (pa.ArrowException, tarfile.TarError, OSError, ValueError) as error:
        with store.open(name) as file:
            pointer = file.read(len(_POINTER)) == _POINTER
        reason = "it is a pointer of git-lfs" if pointer else str(error).partition("\n")[0]
        way_out = "run git lfs pull" if pointer else "fetch the file again"
        raise SourceError(f"cannot read {store.uri(name)} ({reason}); {way_out}") from error


def _walk(root: Path) -> Iterator[tuple[str, str | None]]:
    """Names and versions in a folder and below; every folder once, whatever links lead to it."""
    waiting, links, seen = deque([(root, "")]), deque[tuple[Path, str]](), set[tuple[int, int]]()
    while waiting or links:
        folder, prefix = waiting.popleft() if waiting else links.popleft()
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if not is_hidden(prefix):
                raise _refused(folder, error) from error
            yield prefix[:-1], ""
            continue
        if (here := (status.st_dev, status.st_ino)) in seen:
            yield prefix[:-1], None
            continue
        seen.add(here)
        for entry in found:
            name, path = prefix + entry.name, Path(entry.path)
            if path.is_dir():
                (links if entry.is_symlink() else waiting).append((path, f"{name}/"))
            elif (mark := _version(path)) or entry.is_symlink():
                yield name, mark  # else it was deleted meanwhile


def _version(path: Path) -> str | None:
    try:
        return version(path.stat())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return None
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot list {path}: {error.strerror}; give rights to read it, or move it")
