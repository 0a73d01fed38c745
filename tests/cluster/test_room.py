"""Room for a job on the cluster, and the line while it has none."""

import signal
from types import SimpleNamespace

import pytest

from pipeline.cluster import room
from pipeline.cluster.room import Asked, Waiting
from tests.cluster.head import Head, head


@pytest.fixture
def cluster(monkeypatch):
    """What Ray says of nodes with so many CPUs and GPUs, of which all is free, or nothing."""

    def nodes(*nodes: tuple[float, float], free: bool = False) -> None:
        found = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in nodes]
        found.append({"Alive": False, "Resources": {"CPU": 99, "GPU": 99}})
        totals = {"CPU": sum(c for c, _ in nodes), "GPU": sum(g for _, g in nodes)}
        ray = SimpleNamespace(
            is_initialized=lambda: True,
            nodes=lambda: found,
            cluster_resources=lambda: totals,
            available_resources=lambda: totals if free else {},
        )
        monkeypatch.setattr(room, "ray", ray)

    return nodes


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        (Asked("distill.workers", 1, 1, 1), True),
        (Asked("distill.workers", 3, 1, 1), True),
        (Asked("distill.workers", 4, 1, 1), False),
        (Asked("distill.workers", 4, 1, 0), True),
        (Asked("distill.workers", 1, 5, 0), False),  # no node has them, all together do
        (Asked("distill.workers", 4, 0, 0.5), True),
        (Asked("distill.workers", 1000, 0, 0), True),
    ],
)
def test_what_fits_fits_node_by_node(asked, fits, cluster):
    cluster((4, 2), (2, 1))
    assert asked.fits() is fits


def test_a_line_each_time_that_nothing_works_for_so_long(cluster, monkeypatch, capsys):
    now, begun = 0.0, False
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now))
    asked = Asked("distill.workers", 1, 1, 1)
    waiting = Waiting("distill", asked, lambda: begun)

    def lines(until: float) -> int:
        """Of a look in every second until then."""
        nonlocal now
        while now < until:
            now += 1
            assert waiting.look() is not begun
        return len(capsys.readouterr().out.splitlines())

    cluster((8, 0))
    assert lines(room.PATIENCE) == 0
    assert lines(10 * room.PATIENCE) == 1
    cluster((8, 1))
    assert lines(15 * room.PATIENCE) == 0, "it was told already, and others use the room now"
    cluster((8, 1), free=True)
    assert lines(20 * room.PATIENCE) == 0, "it had room, and begins"
    cluster((8, 1))
    begun = True
    now += room.LOOK_SECONDS
    assert lines(40 * room.PATIENCE) == 0
    cluster((8, 0))  # the node is lost, though the group had begun
    now += room.LOOK_SECONDS
    waiting.look()
    now += room.PATIENCE
    assert waiting.look()
    told = capsys.readouterr().out
    assert "distill.workers" in told and "0 GPUs" in told


@pytest.mark.cluster
def test_a_run_without_room_says_so_and_a_signal_ends_it_at_once(tmp_path, start):
    """On a cluster that may grow; one of its own never will."""
    flags = ["--config", "configs/gaussian.yaml", "--run", str(tmp_path / "run")]
    start("jobs/pairs.py", *flags).finish()
    alone = start("jobs/distill.py", *flags, "--distill.workers.gpus", "1").finish(2)
    assert alone[-1].startswith("distill.workers needs 1 CPU and 1 GPU")
    with head(Head(tmp_path, "--num-cpus", "2")) as cluster:
        address = f"127.0.0.1:{cluster.port}"
        job = start("jobs/distill.py", *flags, "--distill.workers.gpus", "1", RAY_ADDRESS=address)
        job.wait_for(lambda: "waits for room: distill.workers needs 1 CPU" in job.tail())
        job.process.send_signal(signal.SIGINT)
        job.finish(130, seconds=30)
    folder = tmp_path / "run" / "distill"
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "run.json"]
