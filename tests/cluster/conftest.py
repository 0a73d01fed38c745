"""What the tests with real processes share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.job import Job


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts a script with arguments, and settings of the environment; kills what is left."""
    started: list[Job] = []

    def job(*command: str, **env: str) -> Job:
        number = len(started)
        started.append(Job(number, tmp_path / f"job-{number}.log", list(command), env))
        return started[-1]

    yield job
    for each in started:
        each.kill()
