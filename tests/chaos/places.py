"""Where a pair set and a run are: a local folder or a prefix of a bucket, seen from outside."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import boto3


class Place(Protocol):
    """Objects under `uri`, hidden ones too, by names such as pairs/plan.json."""

    uri: str
    flags: list[str]
    """What a job needs to reach it."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def remove(self, name: str) -> None:
        """Of an object or of all in a folder."""


@dataclass(frozen=True)
class Folder:
    """A local folder."""

    uri: str
    flags = []

    def names(self) -> list[str]:
        found = [Path(at, name) for at, _, files in os.walk(self.uri) for name in files]
        empty = [Path(at, "") for at, folders, files in os.walk(self.uri) if not folders + files]
        return sorted(path.relative_to(self.uri).as_posix() for path in (*found, *empty))

    def read(self, name: str) -> bytes:
        return Path(self.uri, name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = Path(self.uri, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, name: str) -> None:
        path = Path(self.uri, name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Bucket:
    """A prefix of the bucket `bucket` on a server, reached by the jobs at another address."""

    def __init__(self, server: str, prefix: str, seen_at: str = "") -> None:
        self.server, self.prefix = server, prefix
        self.uri, self._prefix = f"s3://bucket/{prefix}", f"{prefix}/"
        self.flags = ["--s3.region", "us-east-1", "--s3.endpoint", seen_at or server]
        client = boto3.resource("s3", endpoint_url=server, region_name="us-east-1")
        self._objects = client.Bucket("bucket").objects
        self._object = client.Bucket("bucket").Object

    def names(self) -> list[str]:
        return [each.key.removeprefix(self._prefix) for each in self._under("")]

    def read(self, name: str) -> bytes:
        return self._object(self._prefix + name).get()["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self._object(self._prefix + name).put(Body=data)

    def remove(self, name: str) -> None:
        for each in self._under(name):
            if each.key == self._prefix + name or each.key.startswith(f"{self._prefix}{name}/"):
                each.delete()

    def _under(self, name: str) -> list:
        return list(self._objects.filter(Prefix=self._prefix + name))
