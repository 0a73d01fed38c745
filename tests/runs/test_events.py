"""What a run notes of itself: events, the schema of its metrics, TensorBoard."""

import json
import logging
import re
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event as Record

from pipeline.runs.checkpoint_store import Score
from pipeline.runs.events import FILE, read_event
from pipeline.runs.metrics_log import board_score
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.training import detect, loop
from pipeline.utils.errors import UserError
from pipeline.utils.untrusted import read_lines

ROOT = Path(__file__).parents[2]


def events(config) -> list:
    return read_lines((Path(config.distill.output) / FILE).read_bytes(), read_event)[0]


def test_starts_ends_and_losses_are_noted(tiny_run, monkeypatch):
    config, answers = tiny_run(), iter([False, True])
    loop.train(config, lambda: next(answers))
    real = loop.Watchdog.after_step

    def die(self, step, done):
        if step == 7:
            raise RuntimeError("power cut")
        real(self, step, done)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(loop.Watchdog, "after_step", die)
        loop.train(config)
    Run(config).log_restart(6, "a worker died")
    # As after a SIGKILL: steps were logged of which no checkpoint is left.
    lines = Path(config.distill.output) / "metrics.jsonl"
    with lines.open("a") as file:
        file.write('{"step": 8, "time": 1234.5}\n{"step": 9, "ti')
    loop.train(config)
    noted = events(config)
    assert [(each.kind, each.step) for each in noted] == [
        *(("start", 0), ("left", 4), ("start", 4), ("failed", 6), ("restart", 6)),
        *(("start", 6), ("end", 10)),
    ]
    assert [each.error for each in noted[3:5]] == ["RuntimeError: power cut", "a worker died"]
    assert (noted[5].reached, noted[5].reached_at, noted[5].workers) == (8, 1234.5, 1)
    assert noted[2].reached is None
    assert {"processor", "cores", "memory", "torch", "Python"} <= noted[0].machine.keys()
    assert [each.time for each in noted] == sorted(each.time for each in noted)
    assert [json.loads(line)["step"] for line in lines.read_text().splitlines()] == [2, 4, 6, 8, 10]


def test_side_files_that_are_damaged_do_not_end_a_run(tiny_run, caplog):
    config, answers = tiny_run(), iter([False, True])
    loop.train(config, lambda: next(answers))
    output = Path(config.distill.output)
    with (output / "metrics.jsonl").open("ab") as file:
        file.write(b'no json\n{"time": 1}\n[2]\n\xff\n{"step": 9')
    with (output / FILE).open("a") as file:
        file.write('{"kind": "en')
    with caplog.at_level(logging.WARNING):
        assert loop.train(config) == 10
    assert [record.message for record in caplog.records if "metrics.jsonl" in record.message] == [
        f"{output / 'metrics.jsonl'}: 4 damaged lines are dropped"
    ]
    assert [(each.kind, each.step) for each in events(config)][2:] == [("start", 4), ("end", 10)]
    figures = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in figures] == [2, 4, 6, 8, 10]


def test_a_file_in_the_place_of_a_folder_is_named(tiny_run):
    config = tiny_run()
    output = Path(config.distill.output)
    output.mkdir(parents=True)
    (output / "tensorboard").write_text("")
    with pytest.raises(UserError, match=r"distill\.output: cannot write .*tensorboard"):
        loop.train(config)


def test_a_damaged_event_is_left_out():
    good = '{"kind": "end", "time": 1.5, "step": 3}'
    text = f'{good}\n{{"kind": "end"\n[1]\n{{"kind": "boom", "time": 1, "step": 2}}\nnull\n{good}'
    found, damaged = read_lines(text.encode(), read_event)
    assert [(each.kind, each.step) for each in found] == [("end", 3), ("end", 3)] and damaged == 4


def test_every_key_of_metrics_is_documented_and_tensorboard_has_all(tiny_run, monkeypatch):
    monkeypatch.setattr(detect, "SHARE", 1e3)  # a probe in every line
    config = tiny_run(gan={"real": "pairs", "smoothness": 0.1}, log_every=5)
    loop.train(config)
    board_score(RunFolder(Run(config).storage), 8, Score(0.5, 10, 0.25))
    output = Path(config.distill.output)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## events.jsonl")[0]
    others = {"mfu", "seconds_device", "seconds_host", "probe_motion"}  # of GPUs, of videos
    assert written | others == set(re.findall(r"^\| `(\w+)` \|", text, re.M))

    files = sorted((output / "tensorboard").glob("events*"))
    shown = [value for file in files for each in records(file.read_bytes()) for value in each]
    tags = [value.tag for value in shown]
    assert written - {"step", "time"} <= set(tags)
    assert tags.count("samples") == 2 and tags.count("fd_teacher") == tags.count("fd_floor") == 1
    (settings,) = (value.tensor.string_val[0] for value in shown if "config" in value.tag)
    assert b"regression_steps: 4" in settings


def records(data: bytes) -> list:
    """Values in a TFRecord file: length (8 bytes), checksum (4), record, checksum (4)."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        found.append(Record.FromString(data[at + 12 : at + 12 + size]).summary.value)
        at += 16 + size
    return found
