"""Objects in Google Cloud Storage: each by one upload on the condition that there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from google.api_core.exceptions import (
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
)
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import RequestException

from pipeline.data.ranges import BrokenError, Ranges, patient, whole
from pipeline.utils.errors import UserError

_Result = TypeVar("_Result")
_AGAIN = "run the same command again"
_ADVICE = {
    401: "check the credentials",
    403: "give the account the role Storage Object User on the bucket",
    404: "check the bucket's name, or make it",
}


@dataclass(frozen=True)
class GSStore:
    """Objects under a prefix of a bucket; needs the extra `gs`.

    Credentials are Google's Application Default Credentials: the machine's service account,
    `gcloud auth application-default login`, or the file GOOGLE_APPLICATION_CREDENTIALS names.

    Attributes:
        bucket: Name of the bucket, which exists.
        prefix: In front of every object's name; empty, or ends with "/".
    """

    bucket: str
    prefix: str

    def put(self, name: str, data: bytes) -> bool:
        try:
            with self._errors("write", name):
                self._blob(name).upload_from_string(
                    data, "application/octet-stream", if_generation_match=0
                )
            return True
        except PreconditionFailed:
            return False

    def get(self, name: str) -> bytes:
        return self._patient(name, lambda: bytes(self._blob(name).download_as_bytes()))

    def open(self, name: str) -> pa.NativeFile:
        blob = self._blob(name)
        with self._errors("read", name):
            blob.reload()

        def part(first: int, last: int) -> bytes:
            size = last - first + 1
            return self._patient(
                name, lambda: whole(blob.download_as_bytes(start=first, end=last), size)
            )

        return pa.PythonFile(Ranges(part, blob.size), mode="r")

    def list(self, prefix: str = "") -> dict[str, int]:
        sizes = {name: int(blob.size) for name, blob in self._found(prefix)}
        return {name: sizes[name] for name in sorted(sizes) if "/" not in name and name[0] != "."}

    def tree(self) -> dict[str, str]:
        """Name -> generation of every object under the prefix, in its folders as well; sorted."""
        found = {name: str(blob.generation) for name, blob in self._found("") if name[-1] != "/"}
        return dict(sorted(found.items()))

    def upload(self, file: Path, name: str) -> None:
        with self._errors("write", name):
            self._blob(name).upload_from_filename(str(file), retry=DEFAULT_RETRY)

    def download(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._patient(name, lambda: self._blob(name).download_to_filename(str(path)))

    def delete(self, name: str) -> None:
        with self._errors("delete", name), suppress(NotFound):
            self._blob(name).delete(retry=DEFAULT_RETRY)

    def uri(self, name: str) -> str:
        return f"gs://{self.bucket}/{self.prefix}{name}"

    def _found(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Name and listing of every object whose name starts so, page by page."""
        with self._errors("list", prefix):
            for blob in self._client.list_blobs(self.bucket, prefix=self.prefix + prefix):
                if name := blob.name[len(self.prefix) :]:
                    yield name, blob

    def _patient(self, name: str, read: Callable[[], _Result]) -> _Result:
        """Read again where the bytes are not those that were announced."""

        def attempt() -> _Result:
            with self._errors("read", name):
                return read()

        try:
            return patient(attempt)
        except BrokenError as error:
            raise UserError(f"cannot read {self.uri(name)}: {error}; {_AGAIN}") from error

    def _blob(self, name: str) -> Any:
        return self._client.bucket(self.bucket).blob(self.prefix + name)

    @property
    def _client(self) -> Any:
        with self._errors("reach", ""):
            return _connect()

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        """What the library raises, as one line that names object, reason and way out."""
        where = f"cannot {verb} {self.uri(name)}"
        try:
            yield
        except (DefaultCredentialsError, RefreshError) as error:
            raise UserError(
                f"{where}: no valid credentials; run `gcloud auth application-default login`, or "
                "give the machine a service account"
            ) from error
        except PreconditionFailed:  # the name has an object already
            raise
        except GoogleAPICallError as error:
            reason, advice = (
                error.message,
                _ADVICE.get(error.code or 0, _AGAIN),
            )
            if error.code == 404 and verb == "read":
                reason, advice = "no such object", "run the job that makes it"
            raise UserError(f"{where}: {reason}; {advice}") from error
        except DataCorruption as error:
            raise BrokenError(str(error).partition("\n")[0]) from error
        except (RetryError, RequestException) as error:
            raise UserError(f"{where}: {error}; check the network, run again") from error


@cache
def _connect() -> Any:
    """One client for all stores of a process; its threads may share it."""
    return storage.Client(project=None)
