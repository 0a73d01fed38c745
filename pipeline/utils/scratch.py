"""Temporary files and folders: they have one kind of name, and are removed though killed.

Each is locked by the process that writes it. The lock ends with the process, whichever way that
ends, so what nobody holds is left over: `sweep` removes it.
"""

import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.utils.errors import UserError

_NAME = re.compile(r"\..+\.ray-dmd-[0-9a-f]{32}")


@contextmanager
def file_beside(target: Path) -> Iterator[BinaryIO]:
    """A new file in the folder of a target, open to be written; removed after the block.

    Raises:
        OSError: If it cannot be made.
    """
    path, handle = _held(target, lambda path: path.touch(exist_ok=False), os.O_WRONLY)
    try:
        with open(path, "wb", opener=lambda *_: handle) as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new folder in the folder of a target; removed after the block, unless it was renamed.

    Raises:
        OSError: If it cannot be made.
    """
    path, handle = _held(target, Path.mkdir, os.O_RDONLY)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder where this machine has its temporary ones; removed after the block.

    Raises:
        UserError: If it cannot be made.
    """
    with ExitStack() as stack:
        where = Path(tempfile.gettempdir(), "scratch")
        try:
            folder = stack.enter_context(folder_beside(where))
        except OSError as error:
            raise UserError(
                f"cannot write to {where.parent}: {error.strerror}; free space there, or set "
                "TMPDIR to another folder"
            ) from error
        yield folder


def name(of: str) -> str:
    """A new temporary name, by which `sweep` knows what has it."""
    return f".{of}.ray-dmd-{uuid.uuid4().hex}"


def is_temporary(path: str) -> bool:
    """Whether the last part of a path is such a name."""
    return bool(_NAME.fullmatch(path.rpartition("/")[2]))


def sweep(folder: Path, deep: bool = False) -> None:
    """Remove what killed processes have left in a folder; deep: and in the folders in it."""
    with suppress(OSError):  # there is no such folder, or it is not ours to read
        for path in sorted(folder.iterdir()):
            if is_temporary(path.name):
                _remove_unheld(path)
            elif deep and path.is_dir() and not path.is_symlink():
                sweep(path, deep)


def sweep_temporary() -> None:
    """As `sweep`, where this machine has its temporary folders."""
    sweep(Path(tempfile.gettempdir()))


def _held(target: Path, make: Callable[[Path], None], flags: int) -> tuple[Path, int]:
    """A new path beside a target, and the handle by which this process holds it.

    Another process may sweep it at any time before that; then it is made again.
    """
    while True:
        path = target.with_name(name(target.name))
        make(path)
        try:
            handle = os.open(path, flags)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # a file system without locks: nobody takes it for left over
            fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():
            return path, handle
        os.close(handle)


def _remove_unheld(path: Path) -> None:
    """Remove what nobody holds; where that cannot be told, or not be done, it stays."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(handle)
