"""Where pair sets and runs live: whole objects; those that are put, put once or not at all.

A store of another kind is a file with its class, and a line in `STORES`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pydantic_core import from_json

from pipeline.config import S3Config
from pipeline.data.local import LocalStore
from pipeline.data.s3 import S3Store
from pipeline.utils import scratch, uris
from pipeline.utils.errors import DamagedError, UserError

BLOCK = 2**20
"""Bytes read at once of a file that is read through: over a network, fewer and larger requests."""


class Store(Protocol):
    """Named objects in one place; `put` and `list` are about names without a folder.

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
        """Names of all objects, in folders as well, sorted, each with its version."""

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""

    def uri(self, name: str) -> str:
        """Address of an object, such as <scheme>://bucket/prefix/name: `Storage` opens it again.

        That of "" is the place itself, for what is put in it.
        """


Opener = Callable[[str, str, S3Config], Store]
"""Opens bucket and prefix (empty, or ending with "/") with credentials; nothing is read yet."""


def _open_s3(bucket: str, prefix: str, credentials: S3Config) -> Store:
    return S3Store(bucket, prefix, credentials.endpoint, credentials.region, credentials.profile)


def _open_gs(bucket: str, prefix: str, credentials: S3Config) -> Store:
    try:
        from pipeline.data.gs import GSStore
    except ImportError as error:
        raise UserError(
            "gs:// needs google-cloud-storage on every node (extra `gs`): pip install "
            "google-cloud-storage"
        ) from error
    return GSStore(bucket, prefix)


STORES: dict[str, Opener] = {"s3": _open_s3, "gs": _open_gs}
"""Scheme of a URI -> what opens it."""


class Storage:
    """The objects at a URI: a `Store` of whichever kind; nothing is made or read yet.

    Args:
        uri: A local folder, which is made with the first object, or <scheme>://bucket/prefix of
            one of the `STORES`.
        credentials: What reaches the bucket.
        setting: The setting that names the URI, for messages.

    Attributes:
        folder: The local folder; None elsewhere.

    Raises:
        UserError: If the URI is of another kind, or the library for it is missing.
    """

    def __init__(self, uri: str, credentials: S3Config, setting: str) -> None:
        self.credentials, self.setting = credentials, setting
        self.folder = None if uris.is_remote(uri) else Path(uri)
        self._store = LocalStore(self.folder) if self.folder else self._open(uri)

    def _open(self, uri: str) -> Store:
        scheme, place = uris.split(uri)
        bucket, _, prefix = place.partition("/")
        prefix = prefix.rstrip("/")
        if scheme not in STORES or not bucket:
            *others, last = (f"{known}://bucket/prefix" for known in STORES)
            kinds = ", ".join(["a local folder", *others])
            raise UserError(f"{self.setting} {uri!r}: give {kinds} or {last}")
        try:
            return STORES[scheme](bucket, f"{prefix}/" if prefix else "", self.credentials)
        except UserError as error:
            raise UserError(f"{self.setting}: {error}") from error

    def __truediv__(self, name: str) -> "Storage":
        """The objects in a folder of this one."""
        return Storage(self.uri(name), self.credentials, self.setting)

    def put(self, name: str, data: bytes) -> bool:
        """As `Store.put`."""
        return self._store.put(name, data)

    def get(self, name: str) -> bytes:
        """As `Store.get`."""
        return self._store.get(name)

    def open(self, name: str) -> pa.NativeFile:
        """As `Store.open`."""
        return self._store.open(name)

    def list(self, prefix: str = "") -> dict[str, int]:
        """As `Store.list`."""
        return self._store.list(prefix)

    def upload(self, file: Path, name: str) -> None:
        """As `Store.upload`."""
        self._store.upload(file, name)

    def download(self, name: str, path: Path) -> None:
        """As `Store.download`."""
        self._store.download(name, path)

    def tree(self) -> dict[str, str]:
        """As `Store.tree`."""
        return self._store.tree()

    def sweep(self) -> None:
        """Remove temporary files of processes that are gone; in a bucket there are but probes."""
        if self.folder:
            scratch.sweep(self.folder, deep=True)
            return
        for name in filter(scratch.is_temporary, self.tree()):
            self.delete(name)

    def delete(self, name: str) -> None:
        """As `Store.delete`."""
        self._store.delete(name)

    def uri(self, name: str = "") -> str:
        """As `Store.uri`; without a name, that of all objects."""
        return self._store.uri(name)


def probe(store: Store) -> None:
    """Put an object twice and remove it: see that the store takes it, and only once.

    Raises:
        UserError: If the store refuses, or would overwrite an object.
    """
    name = scratch.name("probe")
    store.put(name, b"1")  # an answer that got lost and was asked for again says False
    overwritten = store.put(name, b"2") and store.put(name, b"3")  # once: it was swept meanwhile
    store.delete(name)
    if overwritten:
        raise UserError(
            f"{store.uri('')} does not keep an object from being overwritten (PutObject with "
            "If-None-Match), so pairs could be made twice: use another store"
        )


def ensure_json(
    store: Store,
    name: str,
    values: dict[str, Any],
    setting: str,
    way_out: Callable[[list[str]], str] = lambda differing: "",
) -> None:
    """Put a JSON object that says what the store is for, or make sure that it is the same.

    Args:
        store: The store.
        name: Of the object.
        values: Its content, of JSON's own types.
        setting: The setting that names the store, for the message.
        way_out: Of dotted keys that differ, how the user can go on with them; "" for none.

    Raises:
        UserError: If the object is another one; names every difference.
        DamagedError: If it is no JSON, or has names that nothing has.
    """
    if store.put(name, (json.dumps(values, indent=1) + "\n").encode()):
        return
    if differing := differences(store, name, values):
        told = "; ".join(differing.values())
        raise UserError(
            f"{setting}: {store.uri(name)} is of another one: it has {told}; choose another "
            f"folder, or delete all of that one{way_out(list(differing))}"
        )


def differences(store: Store, name: str, values: dict[str, Any]) -> dict[str, str]:
    """Dotted keys in which a stored JSON object is another than this one, and both values in words.

    Raises:
        DamagedError: If it is no JSON, or has names that nothing has.
    """
    try:
        found = _flat(from_json(store.get(name)))
    except ValueError as error:
        raise DamagedError(f"{store.uri(name)} is damaged ({error}); delete it") from error
    wanted = _flat(values)
    differing = sorted(
        key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)
    )
    if not differing and (unknown := sorted(found.keys() - wanted.keys())):  # all of them null
        raise DamagedError(f"{store.uri(name)} is damaged (unknown: {unknown[0]}); delete it")
    return {key: f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in differing}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level of dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    parts = (_flat(value, f"{prefix}.{key}" if prefix else key) for key, value in values.items())
    return {key: value for part in parts for key, value in part.items()}
