"""A fault in the code of a worker."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster import distill
from pipeline.cluster.group import faults_told
from pipeline.utils.errors import CodeError, UserError


def test_a_fault_is_told_in_one_line_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CodeError) as found, faults_told():
        int("a\nb")
    place = f"{Path(__file__)}:{found.traceback[0].lineno + 2}"
    assert str(found.value).startswith("ValueError: invalid literal") and place in str(found.value)
    assert "\n" not in str(found.value) and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("NCCL timed out"), OSError("gone"), UserError("x")])
def test_what_a_machine_or_a_user_did_is_left_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as found, faults_told():
        raise error
    assert found.value is error


@pytest.mark.parametrize(
    ("failures", "tries", "told"),
    [
        (["a (x.py:1)"] * 9, 2, "a (x.py:1)"),
        (["a (x.py:1)", "b (x.py:2)"] * 9, 1 + distill.RESTARTS, "b (x.py:2)"),
    ],
)
def test_the_same_fault_again_ends_a_run(
    monkeypatch: pytest.MonkeyPatch, failures: list[str], tries: int, told: str
) -> None:
    left = list(failures)
    monkeypatch.setattr(distill, "_fit", lambda *_: CodeError(left.pop(0)))
    monkeypatch.setattr(distill, "rolled_back", lambda run: None)
    config = SimpleNamespace(distill=SimpleNamespace(steps=10))
    run: Any = SimpleNamespace(config=config, step=lambda: 0, log_restart=lambda *_: None)
    signals: Any = SimpleNamespace(forget_group=lambda: None, driver="ours")
    with pytest.raises(CodeError) as found:
        distill._until_finished(run, signals, threading.Event(), lambda: None)
    assert str(found.value) == told and len(failures) - len(left) == tries
