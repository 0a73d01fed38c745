"""What a signal does to the driver of a distillation."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.cluster import signals
from pipeline.cluster.signals import Signals, stoppable
from pipeline.config import S3Config
from pipeline.data.storage import Storage


def signals_in(folder: Path, driver: str = "ours") -> Signals:
    return Signals(Storage(str(folder), S3Config(), "distill.output"), driver)


def test_a_doubled_signal_is_one_and_a_later_one_ends_the_driver(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signals, "DEBOUNCE_SECONDS", 0.3)

    outlived = 0

    def send() -> None:
        nonlocal outlived
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        outlived += 1

    with pytest.raises(KeyboardInterrupt):
        with stoppable(signals_in(tmp_path)) as stopped:
            send()
            assert stopped.is_set()
            send()
            time.sleep(0.4)
            send()
    assert outlived == 2
    assert capsys.readouterr().out.count("stopping") == 1


def test_what_killed_drivers_left_is_no_stop_and_goes(tmp_path):
    killed = signals_in(tmp_path, "killed")
    killed.begin()
    killed.stop()
    ours = signals_in(tmp_path)
    with stoppable(ours):
        assert not ours.is_stopped() and not ours.has_begun()
        ours.begin()
        assert ours.has_begun()
        ours.forget_group()
        assert not ours.has_begun()
        ours.stop()
        assert ours.is_stopped() and not killed.is_stopped()
    assert not any(tmp_path.iterdir())
