"""A store from outside: toy://bucket/prefix is a folder in $TOY_STORE."""

import os
from pathlib import Path

from pipeline.config import S3Config
from pipeline.data.local import LocalStore
from pipeline.data.storage import STORES


class ToyStore(LocalStore):
    def __init__(self, bucket: str, prefix: str, credentials: S3Config) -> None:
        super().__init__(Path(os.environ["TOY_STORE"], bucket, prefix))
        self._address = f"toy://{bucket}/{prefix}"

    def uri(self, name: str) -> str:
        return f"{self._address}{name}"


STORES["toy"] = ToyStore
