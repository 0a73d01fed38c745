"""Small output files: whole or not at all, and a clear word where they cannot be written."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.utils import scratch
from pipeline.utils.errors import UserError

CACHE_WAY_OUT = "free space, or set XDG_CACHE_HOME to another folder"


def cache_folder() -> Path:
    """Where copies of inputs are: ray-dmd in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ray-dmd"


def file_sha256(file: Path) -> bytes:
    """SHA-256 of a file's content; raises OSError if it cannot be read."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def check_writable(folder: Path, setting: str) -> None:
    """Make a folder and see that files can be made in it, before work is spent.

    Args:
        folder: The folder.
        setting: The setting that names it, for the message.

    Raises:
        UserError: If it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch.file_beside(folder / "probe"):
            pass
    except OSError as error:
        raise UserError(
            f"{setting}: cannot write to {folder}: {error.strerror}; choose another folder"
        ) from error


@contextmanager
def no_empty_folders(outputs: Iterable[Path]) -> Iterator[None]:
    """After a `UserError`, remove empty folders that were not there before.

    Args:
        outputs: Files and folders of this machine, or URIs, which stay; with all above and in them.
    """
    new = {
        each
        for output in outputs
        for each in (output, *output.parents)
        if output.is_absolute() and not each.exists()
    }
    try:
        yield
    except UserError:
        for each in new:
            for folder, *_ in os.walk(each, topdown=False):
                with suppress(OSError):  # it is not empty
                    os.rmdir(folder)
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it over an older one.

    Raises:
        UserError: If it cannot be written; an older file stays as it was.
    """
    write_pieces(path, [data])


def write_pieces(
    path: Path, pieces: Iterable[bytes], way_out: str = "free space or choose another folder"
) -> None:
    """As `write_file`, of pieces that are made meanwhile; raises what they raise as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.file_beside(path) as file:
            file.writelines(pieces)
            file.flush()
            os.replace(file.name, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; {way_out}") from error
