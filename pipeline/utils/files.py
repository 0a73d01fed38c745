"""Small output files: whole or not at all, and a clear word where they cannot be written."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from pipeline.utils.errors import UserError


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
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{setting}: cannot write to {folder}: {error.strerror}; choose another folder"
        ) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it over an older one.

    Raises:
        UserError: If it cannot be written; an older file stays as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder"
        ) from error
