"""The training loop: what it leaves, and that a break changes nothing."""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Lock

import pytest
import torch
from PIL import Image

from pipeline.config import Config
from pipeline.diffusion.guidance import Guidance
from pipeline.methods.dmd import DMD
from pipeline.models.sampling import sample_teacher
from pipeline.models.students import load_student
from pipeline.runs import identity
from pipeline.runs.checkpoint import digest, read_part
from pipeline.runs.checkpoint_store import CheckpointStore
from pipeline.runs.host_copy import HostCopy
from pipeline.runs.run import Run
from pipeline.training import build, loop
from pipeline.utils.errors import UserError
from tests.fixtures.in_process import make_pairs
from tests.fixtures.metrics import lines
from tests.fixtures.runs import runs_in
from tests.fixtures.trained import digests


class Killed(BaseException):
    """Stands in for a SIGKILL."""


def die_after(monkeypatch, step: int) -> None:
    """Die as soon as the checkpoint of a step is kept."""
    commit = CheckpointStore.commit

    def dying(self, which):
        commit(self, which)
        if which.step == step:
            raise Killed

    monkeypatch.setattr(CheckpointStore, "commit", dying)


def kept(config) -> list[int]:
    return [commit.step for commit in Run(config).checkpoints.commits()]


def states(config) -> dict[int, list[str]]:
    """Step -> digests of what is kept of it."""
    found, parts = {}, ("student", "critic", "ema", "student_optimizer", "critic_optimizer")
    for commit in Run(config).checkpoints.commits():
        with Run(config).checkpoints.newest(commit.name) as (_, folder):
            found[commit.step] = [digest(read_part(folder, part)) for part in parts]
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Config:
    """A run of ten steps and its student, which are only read."""
    config = runs_in(tmp_path_factory.mktemp("finished"))(keep=3)
    assert loop.train(config) == 10
    assert not Run(config).is_finished()
    Run(config).finish()
    return config


@pytest.fixture
def copied(finished, tiny_run) -> Config:
    """The same run in a folder of its own."""
    config = tiny_run("copied", keep=3)
    shutil.copytree(finished.distill.output, config.distill.output)
    return config


def test_a_run_leaves_checkpoints_metrics_and_pictures(finished):
    config = finished
    assert kept(config) == [10, 8, 6]
    assert [line["step"] for line in lines(config)] == [2, 4, 6, 8, 10]
    assert {"regression", "student_norm"} <= lines(config)[0].keys()
    assert {"critic", "matching_gradient", "sample_std"} <= lines(config)[-1].keys()
    output = Path(config.distill.output)
    pictures = sorted(output.glob("samples/*.png"))
    assert [file.name for file in pictures] == ["step-0000005.png", "step-0000010.png"]
    assert Image.open(pictures[0]).width > 100
    assert list(output.glob("tensorboard/events*"))


@pytest.mark.parametrize("die_at", [2, 4, 8])
def test_a_broken_run_ends_like_an_unbroken_one_bit_for_bit(
    finished, tiny_run, monkeypatch, die_at
):
    broken = tiny_run("broken")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(patch, die_at)
        loop.train(broken)
    loop.train(broken)
    assert digests(finished) == digests(broken)
    assert lines(finished) == lines(broken)


def test_other_checkpoints_change_no_bit(finished, tiny_run):
    rare = tiny_run(checkpoint_every=10)
    loop.train(rare)
    assert digests(rare) == digests(finished)


def test_leaving_keeps_a_checkpoint_of_that_step(tiny_run):
    config, answers = tiny_run(checkpoint_every=100), iter([False, True])
    assert loop.train(config, lambda: next(answers)) == 4
    assert kept(config) == [4]
    assert loop.train(config) == 10


def test_a_finished_run_does_nothing_more(copied):
    before = digests(copied)
    assert loop.train(copied) == 10
    assert digests(copied) == before


def test_a_checkpoint_of_other_settings_is_refused(tiny_run):
    loop.train(tiny_run(steps=6))
    with pytest.raises(UserError, match=r"distill\.output: .*of another run"):
        loop.train(tiny_run(clip=1.0))


def test_a_longer_run_goes_on_from_a_shorter_one(tiny_run):
    loop.train(tiny_run(steps=6))
    config = tiny_run(steps=9)
    loop.train(config)
    assert [line["step"] for line in lines(config)] == [2, 4, 6, 8, 9]


@pytest.mark.parametrize("harm", ["truncated", "missing", "flipped"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(finished, copied, caplog, harm):
    config = copied
    (Path(config.distill.output) / "state.json").unlink()
    newest = sorted((Path(config.distill.output) / "checkpoints").glob("0000010-*/*.safetensors"))
    if harm == "missing":
        newest[0].unlink()
    else:
        data = bytearray(newest[0].read_bytes())
        data[-1] ^= 1
        newest[0].write_bytes(data if harm == "flipped" else data[:-100])
    with Run(config).checkpoints.newest() as found:
        assert found[0].step == 8
    assert "torn or missing: the checkpoint of step 10 is passed over" in caplog.text
    loop.train(config)
    assert digests(config) == digests(finished)


def test_a_copy_as_late_as_the_device_may_make_it_is_of_its_step(finished, tiny_run, monkeypatch):
    """Whatever changes the state waits for it; what stores the copy waits too."""
    begin, wait, copying = HostCopy.begin, HostCopy.wait, Lock()
    due = []

    def copy(self):
        with copying:
            if due:
                due.clear()
                begin(self)

    def late(self):
        time.sleep(0.1)  # training goes on
        copy(self)
        return wait(self)

    monkeypatch.setattr(HostCopy, "begin", lambda self: due.append(self))
    monkeypatch.setattr(HostCopy, "before_change", copy)
    monkeypatch.setattr(HostCopy, "wait", late)
    config = tiny_run("late", keep=3)
    loop.train(config)
    assert states(config) == states(finished)


def test_when_no_checkpoint_is_whole_nothing_is_trained_over_it(copied):
    for file in (Path(copied.distill.output) / "checkpoints").glob("*/*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match=r"distill\.output: not one checkpoint"):
        loop.train(copied)


def test_a_checkpoint_that_cannot_be_stored_ends_the_run(tiny_run, monkeypatch):
    def full(self, folder, name):
        raise UserError("cannot write there: No space left on device")

    monkeypatch.setattr(CheckpointStore, "add", full)
    with pytest.raises(UserError, match="No space left"):
        loop.train(tiny_run())


def spoil(monkeypatch, steps: range) -> None:
    """The matching loss of microbatch 1 is not finite at some steps."""
    loss, calls = DMD.student_loss, []

    def spoilt(self, plan, student, teacher, critic, microbatch):
        found = loss(self, plan, student, teacher, critic, microbatch)
        calls.append(None)
        step, number = divmod(len(calls) - 1, 2)
        if step not in steps or number != 1:
            return found
        parts = found.parts | {"regression": found.parts["regression"] * float("nan")}
        return replace(found, total=found.total * float("nan"), parts=parts)

    monkeypatch.setattr(DMD, "student_loss", spoilt)


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(tiny_run, monkeypatch):
    config = tiny_run()
    spoil(monkeypatch, range(1, 3))
    loop.train(config)
    assert [line["skipped"] for line in lines(config)] == [1, 2, 2, 2, 2]
    with Run(config).checkpoints.newest() as found:
        weights = read_part(found[1], "student")
    assert all(value.isfinite().all() for value in weights.values())


def test_too_many_in_a_row_end_the_run_and_name_loss_lane_and_pairs(tiny_run, monkeypatch):
    config = tiny_run(bad_steps=2)
    spoil(monkeypatch, range(2, 9))
    with pytest.raises(
        UserError, match="step 4: 2 steps in a row .*loss 'regression' in microbatch 1"
    ):
        loop.train(config)
    rows = (Path(config.distill.output) / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [3, 4]
    assert len(json.loads(rows[0])["pairs"]) == 4
    assert kept(config)[0] == 4


def test_an_output_folder_belongs_to_one_run(tiny_run):
    config = tiny_run()
    Run(config).claim()
    Run(config).claim()
    with pytest.raises(UserError, match=r"distill.output: .*distill.clip 10.0, not 1.0"):
        Run(tiny_run(clip=1.0)).claim()


def test_a_node_with_another_teacher_than_the_job_does_not_train(tiny_run):
    config = tiny_run(regression_steps=0, regression={"weight": 0.0})
    Run(config).claim()
    gaussian = config.teacher.gaussian.model_copy(update={"classes": 4})
    teacher = config.teacher.model_copy(update={"gaussian": gaussian})
    with pytest.raises(UserError, match="or of other files than are on .*: teacher "):
        loop.train(config.model_copy(update={"teacher": teacher}))
    assert kept(config) == []


def test_without_regression_no_pairs_are_needed(tiny_run):
    config = tiny_run(regression_steps=0, regression={"weight": 0.0})
    shutil.rmtree(config.pairs.output)
    assert loop.train(config) == 10


def test_missing_pairs_and_pairs_of_another_teacher_are_refused(tiny_run):
    config = tiny_run()
    other = config.teacher.model_copy(
        update={"gaussian": config.teacher.gaussian.model_copy(update={"classes": 4})}
    )
    with pytest.raises(UserError, match="pairs are of another teacher"):
        Run(config.model_copy(update={"teacher": other})).claim()
    shutil.rmtree(config.pairs.output)
    with pytest.raises(UserError, match="run jobs/pairs.py"):
        Run(config).claim()


def test_export_is_the_averaged_student(finished):
    assert Run(finished).is_finished()
    with Run(finished).checkpoints.newest() as found:
        average = read_part(found[1], "ema")
    student = load_student(finished.evaluate.student)
    for name, value in student.state_dict().items():
        assert torch.equal(value, average[f"module.{name}"])


def test_recomputed_activations_change_no_bit(finished, tiny_run):
    again = tiny_run("again", recompute=True)
    loop.train(again)
    assert digests(again) == digests(finished)


def test_moments_of_8_bits_come_back_bit_for_bit_after_a_break(tiny_run, monkeypatch):
    eight = {"optimizer": "adamw8bit", "steps": 12}
    whole, broken = wide(tiny_run("whole", **eight)), wide(tiny_run("broken", **eight))
    loop.train(whole)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(patch, 8)
        loop.train(broken)
    loop.train(broken)
    assert digests(whole) == digests(broken)
    with Run(whole).checkpoints.newest() as found:
        moments = read_part(found[1], "student_optimizer")
    small = {k: v for k, v in moments.items() if v.dtype == torch.uint8}
    assert any(v.numel() >= 4096 for v in small.values())
    assert all(moments[k].dtype == torch.float32 for k in moments if "absmax" in k)
    steps = {float(v) for k, v in moments.items() if k.endswith(".step")}
    assert steps == {10.0}, "4 of regression and 6 of DMD"


def wide(config):
    """With convolutions of 4096 weights and more: bitsandbytes leaves smaller ones in float32."""
    network = config.network.model_copy(update={"channels": (32,)})
    return config.model_copy(update={"network": network})


def test_the_curves_and_pictures_go_to_weights_and_biases_offline(tiny_run, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = tiny_run(wandb="one-step")
    loop.train(config)
    (log,) = Path(config.distill.output).glob("wandb/offline-run-*/run-*.wandb")
    words = (b"one-step", b"loss/matching_gradient", b"optimizer/student_norm")
    end = time.monotonic() + 30  # its own process writes the rest
    while not all(word in log.read_bytes() for word in words):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert list(log.parent.glob("files/media/images/samples/grid_10_*.png"))


@pytest.mark.parametrize(
    ("setting", "package"),
    [({"wandb": "one"}, "wandb"), ({"optimizer": "adamw8bit"}, "bitsandbytes.optim")],
)
def test_an_extra_that_is_not_installed_is_named(tiny_run, monkeypatch, setting, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"package {package.split('.')[0]} on every node"):
        loop.train(tiny_run(**setting))


def start_settings(config, origin: str, weights: str) -> dict:
    output = Path(config.distill.output)
    places = {
        "run": output,
        "checkpoint": output / "checkpoints" / Run(config).checkpoints.commits()[1].name,
        "student": output / "student",
    }
    return {"start_from": str(places[origin]), "start_weights": weights, "regression_steps": 0}


def test_all_lanes_of_a_step_share_the_exit_and_nothing_else(tiny_run):
    lanes = build.prepare(tiny_run(student={"times": [80.0, 9.0, 3.0, 1.0]}, lanes=4)).microbatches
    steps = [list(lanes(step).values()) for step in range(6, 30)]
    exits = [{microbatch.step_index for microbatch in step} for step in steps]
    assert all(len(each) == 1 for each in exits) and set().union(*exits) == {0, 1, 2, 3}
    noises = torch.cat([microbatch.noise for step in steps for microbatch in step]).flatten(1)
    assert len(noises.unique(dim=0)) == len(noises) == 24 * 8


@pytest.mark.parametrize(
    ("origin", "weights"),
    [("run", "ema"), ("run", "raw"), ("checkpoint", "raw"), ("student", "ema")],
)
def test_a_new_run_starts_from_earlier_weights_with_fresh_optimisers(
    finished, tiny_run, origin, weights
):
    first = finished
    second = tiny_run("second", **start_settings(first, origin, weights))
    made = build.prepare(second)
    student = made.state.networks["student"].state_dict()
    only = None if origin != "checkpoint" else Run(first).checkpoints.commits()[1].name
    with Run(first).checkpoints.newest(only) as found:
        expected = read_part(found[1], "ema" if weights == "ema" else "student")
        critic = read_part(found[1], "critic")
    for name, value in student.items():
        assert torch.equal(value, expected[f"module.{name}" if weights == "ema" else name])
    same = [
        torch.equal(v, critic[k]) for k, v in made.state.networks["critic"].state_dict().items()
    ]
    assert all(same) == (origin != "student")
    moments = made.state.tensors()
    assert not any(v.any() for k, v in moments.items() if "_optimizer." in k)
    loop.train(second)
    Run(second).claim()
    with pytest.raises(UserError, match="it has .*start"):
        Run(tiny_run("second", regression_steps=0)).claim()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"student": {"lr": 5e-4}}, "it has distill.student.lr 0.0001, not 0.0005; "),
        ({"clip": 1.0, "ema": 0.9}, "it has distill.clip 10.0, not 1.0; distill.ema 0.995, not 0."),
    ],
)
def test_another_learning_rate_is_a_new_run_from_the_old_ones_weights(
    finished, copied, tiny_run, change, told
):
    """As the message says, word for word."""
    Run(copied).claim()
    with pytest.raises(UserError, match="; or go on from its weights in a new run: ") as refused:
        Run(tiny_run("copied", **change)).claim()
    assert told in str(refused.value)
    setting, place = str(refused.value).split()[-2:]
    assert setting == "distill.start_from"
    only_new = {"steps": 3, "regression_steps": 0, "burn_in_steps": 0}
    second = tiny_run("second", start_from=place, **only_new, **change)
    Run(second).claim()
    before = build.prepare(second).state.networks["student"].state_dict()
    with Run(finished).checkpoints.newest() as found:
        expected = read_part(found[1], "ema")
    assert all(torch.equal(value, expected[f"module.{key}"]) for key, value in before.items())
    assert loop.train(second) == 3
    with Run(second).checkpoints.newest() as found:
        after = read_part(found[1], "student")
    assert not all(torch.equal(value, after[key]) for key, value in before.items())


def test_no_new_run_is_promised_where_the_weights_do_not_fit(copied):
    Run(copied).claim()
    student = copied.distill.student
    lora = student.model_copy(update={"lora": student.lora.model_copy(update={"rank": 2})})
    for branch, change in (
        ("network", {"channels": (16,)}),
        ("distill", {"student": lora, "clip": 1.0}),
        ("distill", {"start_from": f"{copied.distill.output}/student"}),
    ):
        other = getattr(copied, branch).model_copy(update=change)
        with pytest.raises(UserError, match="it has .*, not .*or delete all of that one$"):
            Run(copied.model_copy(update={branch: other})).claim()


def test_start_from_something_else_is_one_clear_line(finished, tiny_run, tmp_path):
    with pytest.raises(UserError, match="distill.start_from: .*no finished run .*no student's"):
        build.prepare(tiny_run(start_from=str(tmp_path)))
    config = tiny_run("wide", start_from=f"{finished.distill.output}/student")
    config = config.model_copy(
        update={"network": config.network.model_copy(update={"channels": (16,)})}
    )
    with pytest.raises(UserError, match="is another network"):
        build.prepare(config)


def test_a_line_of_metrics_says_where_the_time_goes(tiny_run):
    config = tiny_run(log_every=10)
    loop.train(config)
    line = json.loads((Path(config.distill.output) / "metrics.jsonl").read_text())
    parts = ("data", "student", "critic", "picture", "checkpoint")
    split = {part: line[f"seconds_{part}"] for part in parts}
    assert all(seconds > 0 for seconds in split.values())
    assert 0.5 * line["seconds_step"] < sum(split.values()) <= line["seconds_step"]
    assert line["samples_per_second"] == pytest.approx(8 / line["seconds_step"])
    assert 0.05 < line["memory_gib"] < 24


def test_a_run_reads_pairs_of_either_precision_and_says_it_of_bf16(tiny_run, tmp_path):
    """Whatever `pairs.precision` is by then, as it is with the solver."""
    plain, output = tiny_run(), str(tmp_path / "half")
    half, read = (
        plain.model_copy(update={"pairs": plain.pairs.model_copy(update=more)})
        for more in ({"output": output, "precision": "bf16"}, {"output": output})
    )
    make_pairs(half)
    fp32, bf16 = (identity.definition(each)["pairs"] for each in (plain, read))
    assert fp32.keys() == {"plan", "count"} and fp32["plan"] != bf16["plan"]
    assert bf16 == {"plan": bf16["plan"], "count": 32, "precision": "bf16"}
    assert identity.definition(half) == identity.definition(read)


def test_a_run_and_its_pictures_are_guided_as_its_pairs(tiny_run):
    def guided(**more: object) -> Config:
        return plain.model_copy(update={"pairs": plain.pairs.model_copy(update=more)})

    plain = tiny_run()
    before, scale = identity.definition(plain), identity.definition(guided(guidance=3.0))
    assert not before.keys() & {"guidance_until", "guidance_norm", "guidance_2"}
    for change in ({"guidance_until": 0.5}, {"guidance_norm": True}, {"guidance_2": 2.0}):
        assert identity.definition(guided(guidance=3.0, **change)) == {**scale, **change}
    run = build.prepare(guided(guidance=3.0, guidance_until=0.5))
    grid, teacher = run.grid, run.grid.teacher
    expected = sample_teacher(teacher, grid.noise, grid.labels, "heun", 3, Guidance(3.0, 0.5))
    assert torch.equal(grid.target, expected)
    for share, same in ((0.4, True), (0.6, False)):
        t = teacher.schedule.time_from_fraction(torch.full((len(grid.noise),), share))
        made = run.step.teacher(grid.noise, t, grid.condition)
        assert torch.equal(made, teacher(grid.noise, t, grid.condition)) == same
