"""Joining a Ray cluster, and errors on their way back from it."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.errors import UserError


def connect() -> None:
    """Join the cluster of this job or of RAY_ADDRESS; without one, start it on this machine."""
    if not ray.is_initialized():
        ray.init(logging_level="warning")


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise a `UserError` of a remote worker as itself, without Ray's wrapping.

    Raises:
        UserError: If one is among the causes of what the block raised.
    """
    try:
        yield
    except Exception as error:
        cause = _user_error(error, set())
        if cause is None or cause is error:
            raise
        raise cause from None


def _user_error(error: object, seen: set[int]) -> UserError | None:
    """The first `UserError` among an error, its causes and its workers' failures."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return None
    seen.add(id(error))
    if isinstance(error, UserError):
        return UserError(str(error.args[0]))
    failures = getattr(error, "worker_failures", None) or {}
    inner = (getattr(error, "cause", None), error.__cause__, error.__context__, *failures.values())
    return next((found for each in inner if (found := _user_error(each, seen))), None)
