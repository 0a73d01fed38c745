"""Whether the cluster has room for what a job asks of it, and a line while it has none."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

from pipeline.cluster.session import owns_cluster
from pipeline.utils.errors import UserError

PATIENCE = 30.0
"""Seconds that a job waits for room before it says so."""
LOOK_SECONDS = 2.0
"""How often a job that waits looks at the cluster."""


@dataclass(frozen=True)
class Asked:
    """What a job cannot begin without. Before Ray is joined it has all of it.

    Attributes:
        setting: Who asks, such as "distill.workers".
        count: How many of them.
        cpus, gpus: What each takes of one node.
    """

    setting: str
    count: int
    cpus: float
    gpus: float

    def fits(self) -> bool:
        """Whether the nodes that are there now would hold them all, if nothing else ran there."""
        if not ray.is_initialized():
            return True
        nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
        return sum(self._places(node) for node in nodes) >= self.count

    def check(self) -> None:
        """See that the cluster has so much, or may have it once more machines join.

        Raises:
            UserError: If it has not, and is one that this process started for itself.
        """
        if not self.fits() and owns_cluster():
            raise UserError(f"{self}: ask for less, or join a cluster of more (RAY_ADDRESS)")

    def is_free(self) -> bool:
        """Whether so much is not in use, on all nodes together."""
        return not ray.is_initialized() or self._places(ray.available_resources()) >= self.count

    def __str__(self) -> str:
        needs = f"{self.setting} needs {self.cpus:g} CPU and {self.gpus:g} GPU"
        needs += f" for each of {self.count}" if self.count > 1 else ""
        if not ray.is_initialized():
            return needs
        had, free = ray.cluster_resources(), ray.available_resources()
        cpus, gpus = (f"{had.get(each, 0):g} {each}s" for each in ("CPU", "GPU"))
        return (
            f"{needs}, and the cluster has {cpus} and {gpus} ("
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} of them free)"
        )

    def _places(self, resources: dict[str, float]) -> float:
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        each = (resources.get(name, 0) // least for name, least in asked.items() if least)
        return min(each, default=self.count)


class Waiting:
    """Tells that nothing works on a job for want of room, once each time that it comes to that.

    Args:
        job: What the line begins with.
        asked: What the job cannot begin without.
        works: Whether something works on it; by default whether `begin` was called.
    """

    def __init__(self, job: str, asked: Asked, works: Callable[[], bool] | None = None) -> None:
        self._job, self._asked = job, asked
        self._works = works or (lambda: self._begun)
        self._begun: bool = False
        self._had_room = self._told = False
        self._since: float | None = None
        self._next = 0.0

    def begin(self) -> None:
        """Something works on it."""
        self._begun = True

    def look(self) -> bool:
        """Whether nothing works on it; looked at every `LOOK_SECONDS`, and as it was between.

        What had room begins, which may take long: of that nothing is told.
        """
        now = time.monotonic()
        if now < self._next:
            return self._since is not None
        self._next, fits = now + LOOK_SECONDS, self._asked.fits()
        if fits and self._works():
            self._since, self._had_room, self._told = None, False, False
            return False
        self._since = self._since or now
        self._had_room = fits and (self._had_room or self._asked.is_free())
        if now - self._since >= PATIENCE and not self._had_room and not self._told:
            self._told = True
            print(f"{self._job}  waits for room: {self._asked}; start nodes or ask for less")
        return True
