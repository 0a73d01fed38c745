"""Joining a Ray cluster, and errors on their way back from it."""

import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partialmethod
from pathlib import Path

import ray

from pipeline.utils.errors import UserError, first_line

ANSWER_SECONDS = 10.0
"""How long a cluster's head may take to answer at all."""
SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""The longest path of a socket."""
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"
"""The network interface that ends at this machine."""
_LOCAL = ("", "auto", "local")
_TOKENS = "ray._private.authentication.authentication_token_setup"
"""Logger of what Ray says of its token."""
_WAYS = "unset it to start Ray on this machine, or give the address of a head, such as host:6379"

_OWN: set[str] = set()
"""Addresses of the clusters that this process started."""

log = logging.getLogger(__name__)


def connect() -> None:
    """Join the cluster of this job or of RAY_ADDRESS; without one, start it on this machine.

    Raises:
        UserError: If RAY_ADDRESS is no cluster's, nobody answers there, the token is another, or
            Ray has no room for its files on this machine.
    """
    if ray.is_initialized():
        return
    address, own = os.environ.get("RAY_ADDRESS", ""), False
    if address not in _LOCAL:
        _check_address(address)
    elif own := (address == "local" or not _started_here()):
        _check_sockets()
        _give_token()
        _stay_on_loopback()
        os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # no node will come: `Waiting` says so
    # The jobs show their own progress, once: not Ray's beside it, nor each worker line twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in ("progress", "execution.resource_manager"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.ERROR)
    logging.getLogger(_TOKENS).addFilter(_no_advice_to_open)
    try:
        with _groups_apart():
            joined = ray.init(logging_level="warning")
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(_unjoined(error, address)) from error
    _close_token()
    if own:
        _OWN.add(joined.address_info["gcs_address"])


@contextmanager
def _groups_apart() -> Iterator[None]:
    """Processes that are started meanwhile get process groups of their own: those of Ray.

    A signal to the job's group (`timeout`, `kill %1`, the end of a batch job) would end them before
    training has saved. They end with the job all the same: by the kernel on Linux, elsewhere by a
    reaper that needs them in one group, where they stay.
    """
    if sys.platform != "linux":
        yield
        return
    begin = subprocess.Popen.__init__
    subprocess.Popen.__init__ = partialmethod(begin, process_group=0)  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = begin  # type: ignore[method-assign]


def owns_cluster() -> bool:
    """Whether the cluster is one that `connect` started: no other machine joins it."""
    return ray.is_initialized() and ray.get_runtime_context().gcs_address in _OWN


def _check_address(address: str) -> None:
    """See that it is a head's and that one listens there: Ray itself would wait for minutes."""
    if "://" in address:
        http = address.startswith("http")
        reason = "for `ray job submit`" if http else "of another protocol, such as Ray Client's"
        raise UserError(
            f"RAY_ADDRESS {address} is {reason}: submit the job (`ray job submit --working-dir . "
            f"-- python jobs/...`), {_WAYS}"
        )
    try:
        _call(address)
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"RAY_ADDRESS {address}: no Ray head there ({error}); {_WAYS}") from error
    _try_once()


def _started_here() -> bool:
    """Whether `ray start` has made a cluster on this machine; raises UserError if it is gone."""
    file = _temporary()[1] / "ray" / "ray_current_cluster"
    try:
        address = file.read_text().strip()
    except OSError:
        return False
    try:
        _call(address)
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"the Ray cluster at {address}, which {file} names, does not answer ({error}): run "
            "`ray start` again, delete that file, or set RAY_ADDRESS=local"
        ) from error
    _try_once()
    return True


def _call(address: str) -> None:
    """Raises OSError if nobody listens at host:port, ValueError if it is no such address."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


def _try_once() -> None:
    """Let Ray ask a head for half a minute and not for ten."""
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")


def _temporary() -> tuple[str, Path]:
    """The variable that says where Ray's own files are, and the folder."""
    names = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    name = next((name for name in names if name in os.environ), names[0])
    return name, Path(os.environ.get(name, "/tmp"))


def _check_sockets() -> None:
    """See that the paths of Ray's sockets are short enough."""
    name, folder = _temporary()
    session = f"session_2026-01-31_00-00-00_000000_{os.getpid()}"
    room = SOCKET_BYTES - len(f"/ray/{session}/sockets/dash_MetricsHead")
    if (size := len(os.fsencode(folder))) > room:
        raise UserError(
            f"{name} {folder}: {size} bytes, and Ray's sockets leave room for {room}; set "
            "RAY_TMPDIR to a shorter folder, such as /tmp"
        )


def _give_token() -> None:
    """Have Ray keep its token in a folder of the user alone; without a home it gets one here."""
    home = os.environ.get("HOME", "")
    if os.access(home, os.W_OK):
        with suppress(OSError):  # which Ray will meet, and tell
            Path(home, ".ray").mkdir(mode=0o700, exist_ok=True)
    elif not os.path.exists(f"{home}/.ray/auth_token"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _stay_on_loopback() -> None:
    """Let a group of workers on this machine listen to this machine alone."""
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)


def _close_token() -> None:
    """Let nobody else read the token: Ray makes its file with the mode of any other."""
    file = Path(os.environ.get("HOME", ""), ".ray/auth_token")
    with suppress(OSError):  # there is none, or it is another user's
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
            log.warning("%s: others could read this token; now its owner alone can", file)


def _no_advice_to_open(record: logging.LogRecord) -> bool:
    """Leave out that a token is asked for, and how to have none; that there is none is said."""
    return not record.getMessage().startswith("Token authentication is enabled")


def _unjoined(error: Exception, address: str) -> str:
    """Why Ray cannot be joined or started."""
    if "AuthenticationError" in f"{error!r} {error.__cause__!r}":
        return (
            "Ray refuses the token: set RAY_AUTH_MODE=token and the cluster's own token, "
            "in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if address not in _LOCAL:
        return f"Ray cannot be joined at RAY_ADDRESS {address}: {first_line(error)}; {_WAYS}"
    name, folder = _temporary()
    return f"Ray cannot be started: {first_line(error)}; its files are in {name} {folder}"


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
