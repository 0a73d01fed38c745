"""A cluster that Ray's own autoscaler grows and shrinks, all of it on this machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util import get_node_ip_address

from tests.cluster.head import ROOT, Head, head
from tests.cluster.scarce_provider import LIMIT

PROVIDER = "tests.cluster.scarce_provider.ScarceProvider"
IDLE_MINUTES = 0.1


class Autoscaled:
    """A head without CPUs and up to `most` nodes of one CPU each.

    Attributes:
        counts: Seconds since the start, and the worker nodes from then on.
    """

    def __init__(self, cluster: Head, limit: Path):
        self._limit = limit
        self.address = f"{get_node_ip_address()}:{cluster.port}"
        self.counts: list[tuple[int, int]] = []
        self._begin = time.monotonic()

    def give(self, nodes: int) -> None:
        """Have the cloud refuse more worker nodes than that."""
        fresh = self._limit.with_suffix(".new")
        fresh.write_text(str(nodes))
        fresh.rename(self._limit)

    def raylets(self) -> list[psutil.Process]:
        """Of the worker nodes."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            command = " ".join(process.info["cmdline"] or [])
            if process.info["name"] == "raylet" and f"--gcs-address={self.address}" in command:
                if "--head" not in command:
                    found.append(process)
        return found

    def nodes(self) -> int:
        """How many worker nodes there are now; notes changes in `counts`."""
        now = len(self.raylets())
        if not self.counts or self.counts[-1][1] != now:
            self.counts.append((round(time.monotonic() - self._begin), now))
            print("seconds, nodes:", *self.counts[-1], flush=True)
        return now

    def wait_for(self, nodes: int, seconds: float = 150) -> None:
        """Wait until there are so many worker nodes."""
        end = time.monotonic() + seconds
        while self.nodes() != nodes:
            assert time.monotonic() < end, self.counts
            time.sleep(0.5)


@contextmanager
def autoscaled(folder: Path, most: int) -> Iterator[Autoscaled]:
    """A cluster of a head alone, which is gone after the block."""
    config, limit = folder / "autoscaling.yaml", folder / "nodes"
    mark = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
    mark["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = FAKE_HEAD_NODE_ID
    env = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
    env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(ROOT), LIMIT: str(limit)}
    made = Head(
        folder,
        *("--num-cpus", "0", "--autoscaling-config", str(config)),
        **env,
        **mark,
    )
    provider = {
        "type": "external",
        "module": PROVIDER,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": f"{get_node_ip_address()}:{made.port}",
    }
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": most},
    }
    tree = {"cluster_name": "test", "max_workers": most, "provider": provider}
    tree |= {f"{who}setup_commands": [] for who in ("", "head_", "worker_")}
    tree |= {f"{who}_start_ray_commands": [] for who in ("head", "worker")}
    tree |= {"initialization_commands": [], "file_mounts": {}, "cluster_synced_files": []}
    tree |= {"file_mounts_sync_continuously": False, "auth": {}, "docker": {}}
    tree |= {"available_node_types": types, "head_node_type": "ray.head.default"}
    tree |= {"idle_timeout_minutes": IDLE_MINUTES, "upscaling_speed": 1}
    config.write_text(yaml.safe_dump(tree))
    cluster = Autoscaled(made, limit)
    cluster.give(most)
    with head(made):
        yield cluster
