"""A run to be reported, made once."""

import shutil
from pathlib import Path

import pytest

from tests.report.run_folder import make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "digits" / "seed-0")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be harmed."""
    return shutil.copytree(made, tmp_path / "some" / "run")
