"""Random faults leave a set and a run as if there had been none; a long run stays flat."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3600)]


def prove(module: str) -> None:
    """Run a proof in a process of its own, which forks; print what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.chaos.{module}"], stdout=subprocess.PIPE, text=True
    )
    print(done.stdout)
    assert done.returncode == 0


def test_every_fault_is_survived() -> None:
    prove("campaign")


def test_a_long_run_holds_no_more_at_its_end() -> None:
    prove("long_run")
