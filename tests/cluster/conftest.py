"""What the tests with real processes share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.data.local import LocalStore
from pipeline.utils.errors import UserError
from tests.cluster.job import Job

PAIRS = [
    *("--config", "configs/gaussian.yaml", "--s3.region", "us-east-1"),
    *("--pairs.count", "240", "--pairs.shard_size", "20", "--pairs.steps", "3"),
]
"""A small set of twelve shards."""


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed job leaves of `PAIRS` in a local folder."""
    folder = tmp_path_factory.mktemp("clean")
    Job(folder / "log", ["jobs/pairs.py", *PAIRS, "--run", str(folder)], {}).finish()
    store = LocalStore(folder / "pairs")
    shards = [f"pairs-{i:012}-{i + 20:012}.parquet" for i in range(0, 240, 20)]
    assert list(store.list()) == ["manifest-240.json", *shards, "plan.json"]
    return {name: store.get(name) for name in store.list()}


@pytest.fixture
def refuse_writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on local stores put nothing."""

    def refuse(_self: LocalStore, name: str, _data: bytes) -> bool:
        raise UserError(f"cannot write {name}")

    return lambda: monkeypatch.setattr(LocalStore, "put", refuse)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts a script with arguments, and settings of the environment; kills what is left."""
    started: list[Job] = []

    def job(*command: str, **env: str) -> Job:
        number = len(started)
        started.append(Job(tmp_path / f"job-{number}.log", list(command), env))
        return started[-1]

    yield job
    for each in started:
        each.kill()
