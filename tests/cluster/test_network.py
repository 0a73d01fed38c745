"""Who reaches a cluster: a run of one machine listens to nobody else; the doctor warns."""

import socket
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from pipeline.cli import load
from pipeline.cluster.network import bound_store, check_reach
from tests.fixtures.in_process import make_pairs


def listening(process: psutil.Process) -> dict[str, str]:
    """The addresses at which a process and all that it started listen, and a name of each."""
    found = {}
    for each in (process, *process.children(recursive=True)):
        try:
            for socket_ in each.net_connections("inet"):
                if socket_.status == psutil.CONN_LISTEN:
                    found[f"{socket_.laddr.ip} {socket_.laddr.port}"] = " ".join(each.cmdline())
        except psutil.Error:
            continue
    return found


def is_loopback(address: str) -> bool:
    """Also of IPv4 as IPv6 writes it."""
    found = ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_run_of_one_machine_listens_to_nobody_else(start, tmp_path):
    flags = ["--config", "configs/gaussian.yaml", "--run", str(tmp_path)]
    for name, value in (
        *(("pairs.count", 240), ("pairs.shard_size", 20), ("pairs.steps", 3)),
        *(("teacher.delay", 0.1), ("distill.steps", 30), ("distill.lanes", 2)),
        *(("distill.batch_size", 16), ("distill.regression.batch_size", 16)),
        *(("distill.regression_steps", 10), ("distill.burn_in_steps", 5)),
        *(("distill.workers.min", 2), ("distill.workers.max", 2), ("distill.log_every", 5)),
    ):
        flags += [f"--{name}", str(value)]
    make_pairs(load(flags))
    job = start("jobs/distill.py", *flags, RAY_ADDRESS="local")
    job.wait_for((tmp_path / "distill" / "metrics.jsonl").exists)
    found = listening(psutil.Process(job.process.pid))
    named = " ".join(found.values())
    assert all(name in named for name in ("gcs_server", "raylet", "dashboard", "RayTrainWorker"))
    assert not {at: name for at, name in found.items() if not is_loopback(at.split()[0])}
    job.finish()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_store_listens_at_the_address_it_is_given(host):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    options = {"timeout": timedelta(seconds=10), "multi_tenant": True, "wait_for_workers": False}
    server = bound_store(host, port, is_master=True, **options)
    client = bound_store(host, port, is_master=False, **options)
    client.set("key", "value")
    assert server.get("key") == b"value"
    at = [each.laddr.ip for each in psutil.Process().net_connections() if each.laddr.port == port]
    assert set(at) == {host}


@pytest.mark.parametrize(
    ("nodes", "mode", "warning"),
    [
        (["127.0.0.1", "localhost"], "token", None),
        (["10.0.0.1", "192.168.1.9", "fd00::1", "100.64.0.1"], "Token", None),
        (["10.0.0.1", "8.8.8.8"], "token", "8.8.8.8.*docs/network.md"),
        (["2600::1"], "token", "2600::1"),
        (["127.0.0.1"], "disabled", "RAY_AUTH_MODE is disabled"),
        (["10.0.0.1"], None, "RAY_AUTH_MODE is unset"),
    ],
)
def test_a_public_address_and_no_token_are_warned_of(monkeypatch, nodes, mode, warning):
    monkeypatch.delenv("RAY_AUTH_MODE")
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if warning is None:
        assert check_reach(nodes)
    else:
        with pytest.raises(UserWarning, match=warning):
            check_reach(nodes)


def test_the_page_that_messages_name_is_there():
    assert (Path(__file__).resolve().parents[2] / "docs" / "network.md").is_file()
