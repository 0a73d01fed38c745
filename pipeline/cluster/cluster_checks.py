"""What the doctor asks of a cluster: it needs no teacher for that."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import ray

from pipeline.cluster.network import check_reach
from pipeline.cluster.node import Device, Node, look_at_nodes, meet_device, versions
from pipeline.cluster.room import Asked
from pipeline.cluster.session import connect
from pipeline.training.memory import GIB
from pipeline.utils.errors import UserError


class ClusterChecks:
    """Checks of a cluster, each made once.

    Args:
        asked: What the jobs of a run ask for.
        patience: Seconds in which nodes must have answered or taken a task.
    """

    def __init__(self, asked: Sequence[Asked], patience: float) -> None:
        self._asked, self._patience = {each.setting: each for each in asked}, patience

    @property
    def folders(self) -> Mapping[str, str | None]:
        """Folders that all nodes should share, as `look_at_nodes`."""
        return {}

    @cached_property
    def nodes(self) -> list[Node]:
        """Every node that is there now, and what it sees of the folders."""
        self.check_cluster()
        return look_at_nodes(self.folders, self._patience)

    @property
    def devices(self) -> dict[str, Device]:
        """What those who ask would compute on."""
        self.check_cluster()
        if isinstance(self._met, str):
            raise UserError(self._met)
        return self._met

    @cached_property
    def _met(self) -> dict[str, Device] | str:
        """As `devices`, or why somebody has no room."""
        try:
            return {name: meet_device(each, self._patience) for name, each in self._asked.items()}
        except UserError as error:
            return str(error)

    def check_cluster(self) -> str:
        """Ray answers, with this token and this version."""
        if self._unjoined:
            raise UserError(self._unjoined)
        now = ray.cluster_resources()
        return f"{now.get('CPU', 0):g} CPUs and {now.get('GPU', 0):g} GPUs now"

    @cached_property
    def _unjoined(self) -> str:
        """Why Ray cannot be joined; "" if it can."""
        try:
            connect()
        except UserError as error:
            return str(error)
        return ""

    def check_room(self) -> str:
        """There is room for those who ask.

        Raises:
            UserError: If there is none.
            UserWarning: If there is room for some of them.
        """
        devices = self.devices
        if lacking := [f"{each}" for each in self._asked.values() if not each.fits()]:
            raise UserWarning(f"{'; '.join(lacking)}: the job waits for more nodes")
        return "; ".join(
            f"{name} on {device.name} of {device.memory / GIB:.0f} GiB"
            for name, device in devices.items()
        )

    def check_versions(self) -> str:
        """All nodes run what this process runs."""
        mine = versions()
        for node in self.nodes:
            for name, version in mine.items():
                if node.versions.get(name) != version:
                    raise UserError(
                        f"node {node.address} has {name} {node.versions.get(name)}, this process "
                        f"{version}: install the same constraints.txt on all nodes"
                    )
        return ", ".join(f"{name} {version}" for name, version in mine.items())

    def check_network(self) -> str:
        """Strangers do not reach the cluster."""
        return check_reach([node.address for node in self.nodes])

    def check_shared(self) -> str:
        """All nodes see the local folders, if there are some."""
        for node in self.nodes:
            for folder, seen in node.sees.items():
                if not seen:
                    raise UserError(
                        f"node {node.address} does not see {folder}: give a folder that all nodes "
                        "share, or s3://bucket/prefix"
                    )
        return f"{len(self.nodes)} nodes see all folders"
