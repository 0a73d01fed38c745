"""What a signal does to the driver of a distillation."""

import os
import signal
import time

import pytest

from pipeline.cluster import distill
from pipeline.config import S3Config
from pipeline.data.storage import Storage


def test_a_doubled_signal_is_one_and_a_later_one_ends_the_driver(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distill, "DEBOUNCE_SECONDS", 0.3)

    outlived = 0

    def send() -> None:
        nonlocal outlived
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        outlived += 1

    with pytest.raises(KeyboardInterrupt):
        with distill._stoppable(Storage(str(tmp_path), S3Config(), "distill.output")) as stopped:
            send()
            assert stopped.is_set()
            send()
            time.sleep(0.4)
            send()
    assert outlived == 2
    assert capsys.readouterr().out.count("stopping") == 1
