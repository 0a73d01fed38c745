"""Objects in a local folder: each appears by a hard link to a finished file."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from pipeline.utils import scratch
from pipeline.utils.errors import UserError

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system without hard links answers."""


class LocalStore:
    """Objects in a folder, which is made with the first of them.

    A process killed in the middle leaves at most a hidden file, which nobody reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> bool:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with scratch.file_beside(self.folder / name) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    self._link(file.name, name)
                return True
            except FileExistsError:
                return False
            finally:
                _sync(self.folder)
        except OSError as error:
            raise self._unwritable(name, error) from error

    def _link(self, file: str, name: str) -> None:
        try:
            os.link(file, self.folder / name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise UserError(
                f"cannot write {self.uri(name)}: the file system of {self.folder} has no hard "
                f"links ({error.strerror}), by which a file is there whole and once; choose a "
                "folder elsewhere, or s3://bucket/prefix"
            ) from error

    def get(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def open(self, name: str) -> pa.NativeFile:
        try:
            return pa.OSFile(str(self.folder / name))
        except OSError as error:
            raise self._unreadable(name, error) from error

    def list(self, prefix: str = "") -> dict[str, int]:
        try:
            with os.scandir(self.folder) as entries:
                shown = [e for e in entries if e.name.startswith(prefix) and e.name[0] != "."]
                files = [entry for entry in shown if entry.is_file()]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"cannot list {self.folder}: {error.strerror}") from error
        sizes = {}
        for entry in sorted(files, key=lambda entry: entry.name):
            with suppress(FileNotFoundError):  # deleted meanwhile
                sizes[entry.name] = entry.stat().st_size
        return sizes

    def upload(self, file: Path, name: str) -> None:
        target = self.folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("rb") as source, scratch.file_beside(target) as copy:
                    shutil.copyfileobj(source, copy, 2**20)
                    copy.flush()
                    os.fsync(copy.fileno())
                    os.replace(copy.name, target)
            finally:
                _sync(target.parent)
        except OSError as error:
            raise self._unwritable(name, error) from error

    def download(self, name: str, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, path)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def tree(self) -> dict[str, str]:
        found = {}
        for folder, _, files in os.walk(self.folder, onerror=_refuse):
            for path in (Path(folder, file) for file in files if file[0] != "."):
                try:
                    found[path.relative_to(self.folder).as_posix()] = version(path.stat())
                except OSError as error:
                    _refuse(error)
        return dict(sorted(found.items()))

    def delete(self, name: str) -> None:
        path = self.folder / name
        try:
            path.unlink(missing_ok=True)
            if path.parent != self.folder:
                with suppress(OSError):  # others are left in it
                    path.parent.rmdir()
        except OSError as error:
            raise UserError(f"cannot delete {self.uri(name)}: {error.strerror}") from error

    def uri(self, name: str) -> str:
        return str(self.folder / name)

    def _unwritable(self, name: str, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.uri(name)}: {error.strerror}; "
            "free space or choose another folder, then run the same command again"
        )

    def _unreadable(self, name: str, error: OSError) -> UserError:
        reason = error.strerror or "no such file"
        return UserError(f"cannot read {self.uri(name)}: {reason}; run the job that makes it")


def version(status: os.stat_result) -> str:
    """What changes with a file's content: its size, and when it was written."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _refuse(error: OSError) -> None:
    """A folder or file that cannot be looked at ends the job; one that is gone does not."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        raise UserError(f"cannot list {error.filename}: {error.strerror}") from error


def _sync(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
