"""What all tests share: fixed seeds, one thread, one Ray cluster.

The process that hands out the tests reads this too, before any test begins: so neither this file
nor the fixtures that it names import torch or diffusers, which takes eight seconds.
"""

import functools
import gc
import os
import secrets

# Before torch and Ray are imported, and for the processes that tests start. With a token of its own
# a session is protected and leaves none in the home folder.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else the other tests starve its workers
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.fixtures.runs", "tests.fixtures.families"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on Ray first, then those that train: the longest files do not begin last.

    What one process runs is a file, or of the laws of all families a tiny model, which they share.
    """

    def rank(item: pytest.Item) -> int:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            return 0
        return 1 if item.path.parent.name in ("families", "training") else 2

    items.sort(key=rank)
    for item in items:
        group = str(item.path)
        if hasattr(item.cls, "builders"):
            group += f" {item.callspec.params['name']}"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """Spare the garbage collector the objects of all imports, which stay, and most of its looks.

    Networks are made of many small objects: by its own habit it takes an eighth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_loader_of_botocore() -> None:
    """Every client of S3 would read half a second of JSON."""
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster of 4 CPUs for the whole session; tests never shut it down."""
    import ray

    ray.init(
        address="local",  # never a cluster that happens to run on this machine
        num_cpus=4,
        object_store_memory=256 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
