"""What a run notes of itself: events, the schema of its metrics, TensorBoard."""

import json
import logging
import re
from pathlib import Path

import pytest
from pytest import approx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.config.terms import FURTHER
from pipeline.runs.board import tag
from pipeline.runs.checkpoint_store import Score
from pipeline.runs.events import FILE, read_event
from pipeline.runs.metrics_log import board_scores
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.training import detect, loop
from pipeline.training.trained import critic_rate, student_rate
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
    checkpoints = Run(config).checkpoints
    checkpoints.note(Run(config).commits()[-1], Score(0.5, 10, 0.25))
    for _ in range(2):
        board_scores(RunFolder(Run(config).storage), checkpoints)
    output = Path(config.distill.output)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## events.jsonl")[0]
    others = {"mfu", "seconds_device", "seconds_host", "probe_motion"}  # of GPUs, of videos
    others |= {f"{term}{part}" for term in FURTHER for part in ("", "_gradient")}
    others |= {"augmentation_gradient"}  # of guidance
    assert written | others == set(re.findall(r"^\| `(\w+)` \|", text, re.M))

    board = EventAccumulator(str(output / "tensorboard")).Reload()
    scores = {"eval/fd_teacher", "eval/fd_floor"}
    assert scores | {tag(x) for x in written - {"step", "time"}} == set(board.Tags()["scalars"])
    for name in written - {"step", "time"}:
        logged = {line["step"]: line[name] for line in map(json.loads, lines) if name in line}
        assert {each.step: each.value for each in board.Scalars(tag(name))} == approx(logged)
    assert [each.step for each in board.Images("samples/grid")] == [5, 10]
    assert board.Tags()["tensors"] == ["config/text_summary"]
    (settings,) = board.Tensors("config/text_summary")
    assert b"regression_steps: 4" in settings.tensor_proto.string_val[0]
    oldest = Run(config).commits()[-1].step
    points = [(each.step, each.value) for each in board.Scalars("eval/fd_teacher")]
    assert points == [(oldest, 0.5)] and board.Scalars("eval/fd_floor")[0].value == 0.25
    assert len(list((output / "tensorboard").iterdir())) == 1


def test_scores_that_came_meanwhile_are_on_the_curves_once(tiny_run):
    config = tiny_run(scoring={"count": 10}, checkpoint_every=2, log_every=2, keep=9)
    assert loop.train(config, lambda: True) == 2
    run = Run(config)
    run.checkpoints.note(run.commits()[0], Score(0.5, 10))
    loop.train(config)
    board_scores(RunFolder(run.storage), run.checkpoints)
    board = EventAccumulator(str(Path(config.distill.output) / "tensorboard")).Reload()
    assert [(x.step, x.value) for x in board.Scalars("eval/fd_teacher")] == [(2, 0.5)]


def test_rates_and_phase_are_those_of_the_step(tiny_run):
    config = tiny_run()
    loop.train(config)
    distill = config.distill
    lines = (Path(distill.output) / "metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        phase, step = line["phase"], line["step"] - 1
        assert phase == 1 + (step >= 4) + (step >= 4 + distill.burn_in_steps)
        rates = {"student": student_rate(distill), "critic": critic_rate(distill)}
        learns = {name for name in rates if f"lr_{name}" in line}
        assert learns == {1: {"student"}, 2: {"critic"}, 3: {"student", "critic"}}[phase]
        assert all(line[f"lr_{name}"] == rates[name](step) for name in learns)
