"""Joining a Ray cluster, and errors on their way back from it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.utils.errors import UserError


def connect() -> None:
    """Join the cluster of this job or of RAY_ADDRESS; without one, start it on this machine."""
    if ray.is_initialized():
        return
    # The jobs show their own progress, once: not Ray's beside it, nor each worker line twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
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
    """The first `UserError` among an error, its causes and failures, of its own kind."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return None
    seen.add(id(error))
    if isinstance(error, UserError):
        # Ray gives it a class of its own that is also the error's
        kind = next(each for each in type(error).__mro__ if each.__module__ == UserError.__module__)
        return kind(str(error.args[0]))
    failures = getattr(error, "worker_failures", None) or {}
    causes = (getattr(error, name, None) for name in ("cause", "__cause__", "controller_failure"))
    inner = (*causes, *failures.values())
    return next((found for each in inner if (found := _user_error(each, seen))), None)
