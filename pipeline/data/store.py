"""Where pair sets and runs live: whole objects; those that are put, put once or not at all."""

import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.config import S3Config
from pipeline.data.s3 import S3Store
from pipeline.utils.errors import UserError


class Store(Protocol):
    """Named objects; `put` and `list` are about names without a folder.

    Every method raises `UserError` when the store refuses.
    """

    def put(self, name: str, data: bytes) -> bool:
        """Put a whole object unless the name is taken; never overwrites.

        Returns:
            True if this call made the object, False if it was there already.
        """

    def get(self, name: str) -> bytes:
        """All bytes of an object."""

    def open(self, name: str) -> pa.NativeFile:
        """An object as a seekable file that reads only what is asked for."""

    def list(self, prefix: str = "") -> dict[str, int]:
        """Names that start with the prefix, sorted, with their sizes in bytes."""

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of any size to an object, whole or not at all; overwrites."""

    def download(self, name: str, path: Path) -> None:
        """Copy an object to a new local file."""

    def tree(self) -> dict[str, str]:
        """Names of all objects, in folders as well, sorted, each with a mark of its version."""

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""

    def where(self, name: str) -> str:
        """Full path of an object, for messages."""


def open_store(path: str, s3: S3Config, setting: str = "pairs.output") -> Store:
    """The store at a path; nothing is made or read yet.

    Args:
        path: A local folder, which is made with the first object, or as `open_remote`.
        s3: Where S3 is.
        setting: The setting that names the path, for messages.

    Raises:
        UserError: If the path is a URL of another kind.
    """
    return open_remote(path, s3, setting) if "://" in path else LocalStore(Path(path))


def open_remote(url: str, s3: S3Config, setting: str) -> Store:
    """The objects at s3://bucket/prefix or gs://bucket/prefix.

    Raises:
        UserError: If the URL is of another kind, or its library is missing; names the setting
            it comes from.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme not in ("s3", "gs") or not bucket:
        raise UserError(
            f"{setting} {url!r}: give a local folder, s3://bucket/prefix or gs://bucket/prefix"
        )
    if prefix := prefix.rstrip("/"):
        prefix += "/"
    if scheme == "s3":
        return S3Store(bucket, prefix, s3.endpoint, s3.region, s3.profile)
    try:
        from pipeline.data.gs import GSStore
    except ImportError as error:
        raise UserError(
            f"{setting}: gs:// needs google-cloud-storage on every node (extra `gs`): pip install "
            "google-cloud-storage"
        ) from error
    return GSStore(bucket, prefix)


def probe(store: Store) -> None:
    """Put an object twice and remove it: see that the store takes it, and only once.

    Raises:
        UserError: If the store refuses, or would overwrite an object.
    """
    name = f".probe-{uuid.uuid4().hex}"
    store.put(name, b"1")  # an answer that got lost and was asked for again says False
    overwritten = store.put(name, b"2")
    store.delete(name)
    if overwritten:
        raise UserError(
            f"{store.where('')} does not keep an object from being overwritten (PutObject with "
            "If-None-Match), so pairs could be made twice: use another store"
        )


def record(store: Store, name: str, values: dict[str, Any], setting: str) -> None:
    """Put a JSON object that marks what the store is for, or make sure that it is the same.

    Args:
        store: The store.
        name: Of the object.
        values: Its content, of JSON's own types.
        setting: The setting that names the store, for the message.

    Raises:
        UserError: If the store is marked otherwise; names every difference.
    """
    if store.put(name, (json.dumps(values, indent=1) + "\n").encode()):
        return
    try:
        found = _flat(json.loads(store.get(name)))
    except ValueError as error:
        raise UserError(f"{store.where(name)} is damaged ({error}); delete it") from error
    wanted = _flat(values)
    differences = [
        f"{key} {found.get(key)!r}, not {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise UserError(
            f"{setting}: {store.where(name)} is of another one: it has {'; '.join(differences)}; "
            "choose another folder, or delete all of that one"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level of dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    parts = (_flat(value, f"{prefix}.{key}" if prefix else key) for key, value in values.items())
    return {key: value for part in parts for key, value in part.items()}


class LocalStore:
    """A folder. An object appears under its name by a hard link to a finished file.

    A process killed in the middle leaves at most a hidden `.tmp` file, which nobody reads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> bool:
        temporary = self.folder / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, self.folder / name)
                return True
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
                _sync(self.folder)
        except OSError as error:
            raise self._unwritable(name, error) from error

    def get(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def open(self, name: str) -> pa.NativeFile:
        try:
            return pa.OSFile(self.where(name))
        except OSError as error:
            raise self._unreadable(name, error) from error

    def list(self, prefix: str = "") -> dict[str, int]:
        try:
            with os.scandir(self.folder) as entries:
                found = [e for e in entries if e.name.startswith(prefix) and e.name[0] != "."]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"cannot list {self.folder}: {error.strerror}") from error
        sizes = {}
        for entry in sorted(found, key=lambda entry: entry.name):
            with suppress(FileNotFoundError):  # deleted meanwhile
                sizes[entry.name] = entry.stat().st_size
        return sizes

    def upload(self, file: Path, name: str) -> None:
        target = self.folder / name
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("rb") as source, temporary.open("xb") as copy:
                    shutil.copyfileobj(source, copy, 2**20)
                    copy.flush()
                    os.fsync(copy.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
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
        for folder, _, files in os.walk(self.folder):
            for path in (Path(folder, file) for file in files if file[0] != "."):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = path.stat()
                    name = path.relative_to(self.folder).as_posix()
                    found[name] = f"{status.st_size}-{status.st_mtime_ns}"
        return dict(sorted(found.items()))

    def delete(self, name: str) -> None:
        path = self.folder / name
        try:
            path.unlink(missing_ok=True)
            if path.parent != self.folder:
                with suppress(OSError):  # others are left in it
                    path.parent.rmdir()
        except OSError as error:
            raise UserError(f"cannot delete {self.where(name)}: {error.strerror}") from error

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def _unwritable(self, name: str, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.where(name)}: {error.strerror}; "
            "free space or choose another folder, then run the same command again"
        )

    def _unreadable(self, name: str, error: OSError) -> UserError:
        reason = error.strerror or "no such file"
        return UserError(f"cannot read {self.where(name)}: {reason}; run the job that makes it")


def _sync(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
