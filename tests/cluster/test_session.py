"""Ray is joined or refused in one line; what it wraps around errors of its workers comes off."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private.authentication import authentication_token_setup as tokens
from ray._private.authentication.authentication_token_setup import generate_and_save_token
from ray.exceptions import AuthenticationError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from pipeline.cluster.session import connect, user_errors
from pipeline.utils.errors import DamagedError, StoppedError, UserError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def workers(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("Traceback (most recent call last): ...", dict(enumerate(failures)))


def raised(error: Exception) -> BaseException:
    with pytest.raises(Exception) as caught, user_errors():
        raise error
    return caught.value


@pytest.mark.parametrize(
    "failures",
    [
        (UserError("pairs.output: torn"), UserError("pairs.output: torn")),
        (RuntimeError("connection closed by peer"), UserError("pairs.output: torn")),
        (UserError("pairs.output: torn"), UserError("pairs.output: another"), ValueError("x")),
        (ValueError("x"), caused(RuntimeError("y"), UserError("pairs.output: torn"))),
        (ValueError("x"), workers(KeyError("y"), UserError("pairs.output: torn"))),
    ],
    ids=["all", "the last", "different", "a cause", "nested"],
)
def test_failures_of_several_workers_become_one_line(failures):
    error = raised(workers(*failures))
    assert type(error) is UserError
    assert str(error) == "pairs.output: torn"
    assert error.__suppress_context__ and error.__cause__ is None, "Ray's traceback is not shown"


@pytest.mark.parametrize("kind", [UserError, DamagedError, StoppedError])
@pytest.mark.parametrize("wrap", [workers, ControllerError, lambda cause: caused(OSError(), cause)])
def test_an_error_keeps_its_kind(kind, wrap):
    plain = raised(wrap(kind("pairs.output: torn")))
    remote = RayTaskError("f", "Traceback: ...", kind("pairs.output: torn")).as_instanceof_cause()
    for error in (plain, raised(wrap(remote)), raised(remote)):
        assert type(error) is kind and str(error) == "pairs.output: torn"


@pytest.mark.parametrize(
    "error",
    [
        workers(RuntimeError("connection closed by peer"), ValueError("x")),
        workers(),
        ControllerError(RuntimeError("no room")),
    ],
    ids=["workers", "none", "controller"],
)
def test_failures_that_are_no_users_stay_as_they_are(error):
    assert raised(error) is error


def test_failures_that_name_each_other_end():
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert raised(workers(first, second)).worker_failures == {0: first, 1: second}


JOINED = SimpleNamespace(address_info={"gcs_address": "127.0.0.1:1"})
"""What `ray.init` returns."""


@pytest.fixture
def begun(monkeypatch, tmp_path) -> list[dict[str, str]]:
    """The environment of each start of Ray, which is none; a home folder of its own."""
    found: list[dict[str, str]] = []
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    monkeypatch.setattr(os, "environ", clean | {"HOME": str(tmp_path), "TMPDIR": "/tmp"})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: found.append(dict(os.environ)) or JOINED)
    return found


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://localhost:8265", "is for `ray job submit`: submit the job "),
        ("https://head", "is for `ray job submit`: submit the job "),
        ("ray://localhost:10001", "Ray Client's: submit the job "),
        ("nonsense", "no Ray head there"),
        ("127.0.0.1:1", "no Ray head there .*Connection refused"),
        ("127.0.0.1:99999", "no Ray head there"),
        ("[::1]:1", "no Ray head there"),
    ],
)
def test_an_address_that_is_no_heads_is_refused_before_ray_waits_for_it(begun, address, message):
    os.environ["RAY_ADDRESS"] = address
    with pytest.raises(
        UserError, match=f"^RAY_ADDRESS {re.escape(address)}.*{message}.*unset it.*host:6379$"
    ):
        connect()
    assert not begun


def test_where_someone_listens_ray_tries_once(begun):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{listener.getsockname()[1]}"
        connect()
    assert [each["RAY_gcs_server_port_wait_time_s"] for each in begun] == ["1"]


def test_a_cluster_of_ray_start_that_is_gone_is_not_waited_for(begun, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self: "127.0.0.1:1\n")
    with pytest.raises(
        UserError, match="127.0.0.1:1, which /tmp/ray/ray_current_cluster names, .*"
    ):
        connect()
    os.environ["RAY_ADDRESS"] = "local"
    connect()
    assert [each["RAY_ADDRESS"] for each in begun] == ["local"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray does not read TMPDIR")
@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_long_for_sockets_is_refused(begun, name):
    os.environ[name] = folder = f"/{'x' * 100}"
    with pytest.raises(UserError, match=f"^{name} {folder}: 101 bytes, .* room for (3[0-9]); set "):
        connect()
    assert not begun
    os.environ["RAY_TMPDIR"] = f"/{'x' * 29}"
    connect()
    assert len(begun) == 1


def test_a_cluster_gets_a_token_of_its_own_where_there_is_no_home(begun):
    for home in (os.environ["HOME"], "/nowhere", ""):
        os.environ["HOME"] = home
        connect()
    (with_home, *without) = begun
    assert "RAY_AUTH_TOKEN" not in with_home
    assert all(len(each["RAY_AUTH_TOKEN"]) == 64 for each in without)


def test_a_cluster_of_this_machine_stays_on_it(begun):
    os.environ["NCCL_SOCKET_IFNAME"] = "mine"
    connect()
    (env,) = begun
    names = [name for _, name in socket.if_nameindex()]
    assert env["GLOO_SOCKET_IFNAME"] in names and env["NCCL_SOCKET_IFNAME"] == "mine"


@pytest.mark.parametrize(("asked", "stays"), [(None, True), ("1", False)])
def test_ray_takes_loopback_for_this_machine_unless_it_is_told_otherwise(asked, stays):
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    script = "import os, pipeline.cluster, ray\nprint(ray.util.get_node_ip_address())\n"
    env = {key: value for key, value in os.environ.items() if key != name}
    env |= {name: asked} if asked else {}
    done = subprocess.run(
        [sys.executable, "-c", f"{script}print(os.environ.get({name!r}))"],
        cwd=Path(__file__).resolve().parents[2],
        env=env,
        capture_output=True,
        text=True,
    )
    address, left = done.stdout.split()
    assert (address == "127.0.0.1" or not stays) and left == str(asked), done.stderr


def test_a_cluster_that_is_joined_keeps_its_network(begun):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{listener.getsockname()[1]}"
        connect()
    assert not [name for env in begun for name in env if name.endswith("_SOCKET_IFNAME")]


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_nobody_else_reads_the_token_that_ray_makes(begun, monkeypatch, caplog, umask):
    file, folder_modes = Path.home() / ".ray" / "auth_token", []

    def makes(**_: object) -> SimpleNamespace:
        folder_modes.append(file.parent.stat().st_mode & 0o777)
        generate_and_save_token()
        return JOINED

    caplog.set_level("WARNING")
    monkeypatch.setattr(ray, "init", makes)
    before = os.umask(umask)
    try:
        connect()
    finally:
        os.umask(before)
    assert folder_modes == [0o700], "nor before it is mended"
    assert file.stat().st_mode & 0o777 == 0o600
    (line,) = caplog.messages
    assert str(file) in line and file.read_text() not in line
    monkeypatch.setattr(ray, "init", lambda **_: JOINED)
    connect()
    assert caplog.messages == [line], "told once"


def test_ray_warns_of_a_cluster_without_a_token_and_not_of_one_with_it(begun, monkeypatch, caplog):
    """Its own functions: other words of a later version let this fail."""

    def warns(**_: object) -> SimpleNamespace:
        tokens._warn_token_auth_enabled()
        tokens._warn_token_auth_disabled()
        return JOINED

    monkeypatch.setattr(ray, "init", warns)
    connect()
    (line,) = caplog.messages
    assert line.startswith("Token authentication is disabled")


def test_a_user_without_name_and_home_has_a_home():
    nameless = "import pwd\ndef none(_): raise KeyError\npwd.getpwuid = none\n"
    script = f"{nameless}import pipeline, pathlib\nprint(pathlib.Path.home())"
    env = {name: value for name, value in os.environ.items() if name != "HOME"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, capture_output=True)
    assert done.stdout == b"/\n", done.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (caused(ConnectionError("failed"), AuthenticationError("no")), "Ray refuses the token: "),
        (AuthenticationError("no"), "Ray refuses the token: set RAY_AUTH_MODE=token"),
        (RuntimeError("Version mismatch:\nRay 1, not 2"), "Ray cannot be started: Version mism"),
        (PermissionError(13, "Permission denied", "/tmp/ray"), ".*/tmp/ray.* in TMPDIR /tmp$"),
    ],
)
def test_what_ray_says_is_one_line(begun, monkeypatch, error, line):
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(UserError, match=f"^{line}") as caught:
        connect()
    assert "\n" not in str(caught.value)


@pytest.mark.prove
def test_jobs_say_why_ray_cannot_be_joined(start):
    with socket.socket() as silent:
        silent.bind(("", 0))
        silent.listen()
        address, begin = f"127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        flags = ["--config", "configs/gaussian.yaml"]
        jobs = [
            start("jobs/pairs.py", *flags, "--run", "/tmp/none", RAY_ADDRESS=address),
            start("jobs/doctor.py", *flags, RAY_ADDRESS=address),
            start("jobs/pairs.py", *flags, "--run", "/tmp/none", RAY_ADDRESS="http://head:8265"),
        ]
        waited, asked, refused = (job.finish(code=2, seconds=120) for job in jobs)
    line = f"Ray cannot be joined at RAY_ADDRESS {address}: Failed to connect"
    assert waited[-1].startswith(line) and any(line in each for each in asked)
    assert refused[-1].startswith("RAY_ADDRESS http://head:8265 is for `ray job submit`")
    assert time.monotonic() - begin < 120 and not any("Traceback" in each for each in waited)
