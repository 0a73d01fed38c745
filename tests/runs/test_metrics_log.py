"""Figures of a run where the disk is full: the user's to mend, and not a lost worker."""

import errno
import logging
from pathlib import Path

import pytest
import torch

from pipeline.cluster import distill
from pipeline.runs.metrics_log import MetricsLog
from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.utils.errors import UserError

FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*_: object) -> None:
    raise FULL


def new_log(config) -> MetricsLog:
    settings = config.model_dump(mode="json")
    output = Path(config.distill.output)
    return MetricsLog(config.distill, settings, output, 0, 1, torch.device("cpu"))


def test_figures_that_cannot_be_written_are_told_with_the_setting(tiny_run, monkeypatch):
    log = new_log(tiny_run())
    monkeypatch.setattr(log.board, "close", full)
    with pytest.raises(UserError, match=r"distill\.output: .*No space left"), log:
        pass


def test_what_ended_a_run_is_not_hidden_by_what_cannot_be_written_then(
    tiny_run, monkeypatch, caplog
):
    log = new_log(tiny_run())
    monkeypatch.setattr(log.board, "close", full)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="the cause"), log:
        raise UserError("the cause")
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("error", "told"),
    [(FULL, UserError), (OSError(errno.EROFS, "Read-only"), UserError), (ConnectionError(), None)],
)
def test_whoever_meets_a_full_disk_in_a_worker_is_not_started_again(
    tiny_run, monkeypatch, error, told
):
    config = tiny_run()
    Run(config).claim()

    def train(*_: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(distill, "leaving", lambda *_: bool)
    with pytest.raises(told or ConnectionError) as raised:
        distill._worker(config.model_dump(mode="json"), "a driver")
    assert told is None or "distill.output" in str(raised.value)


def test_a_checkpoint_that_does_not_fit_leaves_no_part(tiny_run, monkeypatch):
    config = tiny_run()
    store = Run(config).checkpoints.store
    upload, done = type(store).upload, []

    def second_fails(self, file: Path, name: str) -> None:
        if done:
            raise UserError("no space")
        done.append(name)
        upload(self, file, name)

    folder = Path(config.run) / "files"
    folder.mkdir(parents=True)
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(b"1")
    monkeypatch.setattr(type(store), "upload", second_fails)
    with pytest.raises(UserError, match="no space"):
        Run(config).checkpoints.add(folder, "0000004-00000000")
    assert done == ["0000004-00000000/a.safetensors"] and not store.tree()
