"""Objects in S3 or a server that speaks its language: each by one conditional PutObject."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pyarrow as pa
from boto3.exceptions import Boto3Error
from botocore.config import Config as ClientConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)

from pipeline.data.ranges import ATTEMPTS, BrokenError, Ranges, patient, whole
from pipeline.utils.errors import UserError

REQUESTS: Counter[str] = Counter()
"""What this process has sent, by operation: repeated tries count."""

_UNKNOWN = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
"""No credentials to be had."""
_BROKEN = (ConnectionClosedError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
_AGAIN = "run the same command again"
_RIGHTS = "check the credentials and their rights to read, write and list there"
_REGION = "set s3.region to the bucket's"
_RAN_OUT = f"the credentials have run out: get new ones, then {_AGAIN}"
_SLOWER = f"the store is busy: use fewer actors or workers, and {_AGAIN}"
_ACCOUNT = "the account is not in order: ask its owner"
_ADVICE: dict[str | int, str] = {
    "ExpiredToken": _RAN_OUT,
    "TokenRefreshRequired": _RAN_OUT,
    "RequestTimeTooSkewed": "set this machine's clock (NTP)",
    "SlowDown": _SLOWER,
    "Throttling": _SLOWER,
    "ThrottlingException": _SLOWER,
    "RequestLimitExceeded": _SLOWER,
    "TooManyRequests": _SLOWER,
    "InvalidAccessKeyId": "no such key here: check AWS_ACCESS_KEY_ID, s3.profile and s3.endpoint",
    "InvalidToken": "check AWS_SESSION_TOKEN: it must be of the same session as the key",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY or the secret of s3.profile",
    "AccessDenied": _RIGHTS,
    "AccountProblem": _ACCOUNT,
    "AllAccessDisabled": _ACCOUNT,
    "NotSignedUp": _ACCOUNT,
    "QuotaExceeded": "free space, or raise the quota",
    "InvalidObjectState": "the object is archived: restore it first",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    # a status, for codes that are not here and for a HEAD, which has none
    301: _REGION,
    400: f"{_REGION}, and check the credentials, which may have run out",
    401: "check the credentials",
    403: _RIGHTS,
    404: "check the bucket's name, or make it",
    429: _SLOWER,
    501: "the server has no conditional put: use another store",
    503: _SLOWER,
}
"""Code or HTTP status of a refusal -> the way out."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class S3Store:
    """Objects under a prefix of a bucket.

    Credentials come from where boto3 finds them: environment, profile, role of the machine.

    Attributes:
        bucket: Name of the bucket, which exists.
        prefix: In front of every object's name; empty, or ends with "/".
        endpoint: URL of another server than Amazon's, or None.
        region: Its region, or None for the environment's.
        profile: Profile of the AWS configuration, or None for the environment's.
    """

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    def put(self, name: str, data: bytes) -> bool:
        for attempt in range(ATTEMPTS):
            try:
                with self._errors("write", name):
                    self._client.put_object(
                        Bucket=self.bucket, Key=self.prefix + name, Body=data, IfNoneMatch="*"
                    )
                return True
            except _ConflictError:
                time.sleep(min(0.1 * 2**attempt, 5))  # two writers at once: one will be first
            except _TakenError:
                return False
        raise UserError(f"cannot write {self.uri(name)}: other writers keep it busy; run again")

    def get(self, name: str) -> bytes:
        return self._patient(name, lambda client, key: _body(client.get_object(**key)))

    def upload(self, file: Path, name: str) -> None:
        with self._errors("write", name):
            self._client.upload_file(str(file), self.bucket, self.prefix + name)

    def open(self, name: str) -> pa.NativeFile:
        size = self._patient(name, lambda client, key: client.head_object(**key)["ContentLength"])

        def part(first: int, last: int) -> bytes:
            span = f"bytes={first}-{last}"
            size = last - first + 1
            return self._patient(
                name, lambda client, key: _body(client.get_object(**key, Range=span), size)
            )

        return pa.PythonFile(Ranges(part, size), mode="r")

    def list(self, prefix: str = "") -> dict[str, int]:
        sizes = {name: int(found["Size"]) for name, found in self._found(prefix)}
        return {name: sizes[name] for name in sorted(sizes) if "/" not in name and name[0] != "."}

    def tree(self) -> dict[str, str]:
        """Name -> ETag of every object under the prefix, in its folders as well; sorted.

        Servers that list no ETag have size and time of it.
        """
        tags = {name: _version(found) for name, found in self._found("") if name[-1] != "/"}
        return dict(sorted(tags.items()))

    def download(self, name: str, path: Path) -> None:
        """Copy an object to a new local file, in parallel parts if it is large."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._patient(name, lambda client, key: client.download_file(*key.values(), str(path)))

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def uri(self, name: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{name}"

    def _found(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and listing of every object whose name starts so, page by page."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors("list", prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for found in page.get("Contents", ()):
                    if name := found["Key"][len(self.prefix) :]:
                        yield name, found

    @property
    def _client(self) -> Any:
        try:
            return _connect(self.endpoint, self.region, self.profile)
        except (BotoCoreError, ValueError) as error:
            raise UserError(
                f"{self.uri('')}: {error}; check s3.endpoint, s3.region and s3.profile"
            ) from error

    def _patient(self, name: str, read: Callable[[Any, dict[str, str]], _Result]) -> _Result:
        """Read again where the connection broke, which may be in the middle of the body."""
        key = {"Bucket": self.bucket, "Key": self.prefix + name}

        def attempt() -> _Result:
            with self._errors("read", name):
                return read(self._client, key)

        try:
            return patient(attempt)
        except BrokenError as error:
            raise UserError(f"cannot read {self.uri(name)}: {error}; {_AGAIN}") from error

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        """What the library raises, as one line that names object, reason and way out."""
        where = f"cannot {verb} {self.uri(name)}"
        try:
            yield
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if verb == "write" and status == 412:
                raise _TakenError from error
            if verb == "write" and status == 409:
                raise _ConflictError from error
            reason = error.response["Error"].get("Code", status)
            advice = _ADVICE.get(reason) or _ADVICE.get(status, _AGAIN)
            if reason in ("NoSuchKey", "404"):  # a HEAD has no body to say which
                reason, advice = "no such object", "run the job that makes it"
            raise UserError(f"{where}: {reason}; {advice}") from error
        except _UNKNOWN as error:
            raise UserError(
                f"{where}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, s3.profile, "
                "or give the machine a role"
            ) from error
        except _BROKEN as error:
            if verb == "read":
                raise BrokenError(str(error)) from error
            raise UserError(f"{where}: {error}; {_AGAIN}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise UserError(f"{where}: {error}; check s3.endpoint and the network") from error


def _body(reply: dict[str, Any], size: int | None = None) -> bytes:
    """The bytes of a reply: so many, or as many as it announces."""
    return whole(reply["Body"].read(), reply["ContentLength"] if size is None else size)


def _version(found: dict[str, Any]) -> str:
    return str(found.get("ETag") or f"{found['Size']}-{found['LastModified']}")


class _TakenError(Exception):
    """The name has an object already."""


class _ConflictError(Exception):
    """Another writer is putting the same name now."""


@cache
def _connect(endpoint: str | None, region: str | None, profile: str | None) -> Any:
    """One client for all stores of a process; its threads may share it."""
    settings = ClientConfig(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        # what other servers than Amazon's understand
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.session.Session(profile_name=profile, region_name=region)
    client = session.client("s3", endpoint_url=endpoint, config=settings)
    client.meta.events.register(
        "request-created.s3", lambda operation_name, **_: REQUESTS.update([operation_name])
    )
    return client
