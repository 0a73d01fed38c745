"""Who can reach a cluster: the store of the workers' process group, and what the doctor says."""

import os
import socket
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ray.train.torch import TorchConfig
from torch.distributed import TCPStore


@dataclass
class GroupConfig(TorchConfig):
    """A process group whose store listens at the address of the first worker's node alone.

    PyTorch's own listens at all addresses of the machine, and serves whoever connects.
    """

    @property
    def backend_cls(self) -> type:
        """What Ray Train starts a group with."""
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_bind_stores)
        super().on_start(worker_group, backend_config)


def _bind_stores() -> None:
    """Have PyTorch make its store in this process, a worker's, as `bound_store` does."""
    sys.modules["torch.distributed.rendezvous"].TCPStore = bound_store  # type: ignore[attr-defined]


def bound_store(host_name: str, port: int, is_master: bool, **options: Any) -> TCPStore:
    """A `TCPStore` whose server, if this process has it, listens at `host_name` alone.

    Raises:
        OSError: If that is not an address of this machine, or the port is taken.
    """
    if is_master:
        family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
        listener = socket.create_server((host_name, port), family=family)
        options["master_listen_fd"] = listener.detach()
    return TCPStore(host_name=host_name, port=port, is_master=is_master, **options)


def check_reach(nodes: list[str]) -> str:
    """What Ray's nodes have that keeps strangers out; of their addresses or host names.

    Raises:
        UserWarning: If one of them is public, or no token is asked for.
    """
    found = [ip_address(str(socket.getaddrinfo(node, None)[0][4][0])) for node in nodes]
    if public := [str(each) for each in found if each.is_global]:
        raise UserWarning(
            f"the world may reach Ray at {', '.join(public)}: start it with --node-ip-address in "
            "a private network, and close the public one (docs/network.md)"
        )
    if (mode := os.environ.get("RAY_AUTH_MODE", "unset")).lower() != "token":
        raise UserWarning(
            f"RAY_AUTH_MODE is {mode}: who reaches Ray can run code there; set it to token for "
            "`ray start` and for the jobs (docs/network.md)"
        )
    kind = "loopback" if all(each.is_loopback for each in found) else "private"
    return f"the nodes have {kind} addresses, and ask for a token"
