"""The training loop: what it leaves, and that a break changes nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.distill import checkpoint, loop, run
from pipeline.distill.loop import Cluster
from pipeline.errors import UserError
from pipeline.models.build import load_student


class Keeper:
    """Stands in for the cluster: keeps every checkpoint, and may die at one."""

    def __init__(self, folder: Path, die_at: int | None = None):
        self.folder, self.die_at = folder, die_at
        self.steps: list[int] = []

    def report(self, step: int, folder: Path | None) -> None:
        assert folder is not None
        shutil.copytree(folder, self.folder / str(step), dirs_exist_ok=True)
        self.steps.append(step)
        if step == self.die_at:
            raise KeyboardInterrupt


def read(folder: Path) -> dict:
    return torch.load(folder / checkpoint.FILE, weights_only=True)


def lines(config) -> list[dict]:
    file = Path(config.distill.output) / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_leaves_checkpoints_metrics_and_pictures(tiny, tmp_path):
    config, keeper = tiny(), Keeper(tmp_path / "kept")
    loop.run(config, Cluster(None, keeper.report))
    assert keeper.steps == [2, 4, 6, 8, 10]
    assert [line["step"] for line in lines(config)] == [2, 4, 6, 8, 10]
    assert {"regression", "student_norm"} <= lines(config)[0].keys()
    assert {"critic", "matching_gradient", "sample_std"} <= lines(config)[-1].keys()
    output = Path(config.distill.output)
    pictures = sorted(output.glob("samples/*.png"))
    assert [file.name for file in pictures] == ["step-0000005.png", "step-0000010.png"]
    assert Image.open(pictures[0]).width > 100
    assert list(output.glob("tensorboard/events*"))


@pytest.mark.parametrize("die_at", [2, 4, 8])
def test_a_broken_run_ends_like_an_unbroken_one_bit_for_bit(tiny, tmp_path, die_at):
    whole, broken = tiny("whole"), tiny("broken")
    keeper = Keeper(tmp_path / "whole-kept")
    loop.run(whole, Cluster(None, keeper.report))
    dying = Keeper(tmp_path / "broken-kept", die_at)
    with pytest.raises(KeyboardInterrupt):
        loop.run(broken, Cluster(None, dying.report))
    dying.die_at = None
    loop.run(broken, Cluster(dying.folder / str(die_at), dying.report))
    a, b = read(keeper.folder / "10"), read(dying.folder / "10")
    assert a.pop("fingerprint") == b.pop("fingerprint")
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert lines(whole) == lines(broken)


def test_a_checkpoint_of_other_settings_is_refused(tiny, tmp_path):
    keeper = Keeper(tmp_path / "kept")
    loop.run(tiny(steps=6), Cluster(None, keeper.report))
    other = tiny("other", clip=1.0)
    with pytest.raises(UserError, match="run with other settings; choose another folder"):
        loop.run(other, Cluster(keeper.folder / "6", keeper.report))


def test_a_longer_run_goes_on_from_a_shorter_one(tiny, tmp_path):
    keeper = Keeper(tmp_path / "kept")
    loop.run(tiny(steps=6), Cluster(None, keeper.report))
    loop.run(tiny(steps=9), Cluster(keeper.folder / "6", keeper.report))
    assert keeper.steps == [2, 4, 6, 8, 9]


def test_an_output_folder_belongs_to_one_run(tiny):
    config = tiny()
    run.claim(config)
    run.claim(config)
    with pytest.raises(UserError, match=r"distill.output: .*distill.clip 10.0, not 1.0"):
        run.claim(tiny(clip=1.0))


def test_without_regression_no_pairs_are_needed(tiny, tmp_path):
    config, keeper = tiny(regression_steps=0, regression={"weight": 0.0}), Keeper(tmp_path / "kept")
    shutil.rmtree(config.pairs.output)
    loop.run(config, Cluster(None, keeper.report))
    assert keeper.steps[-1] == 10


def test_missing_pairs_and_pairs_of_another_teacher_are_refused(tiny):
    config = tiny()
    other = config.teacher.model_copy(
        update={"gaussian": config.teacher.gaussian.model_copy(update={"classes": 4})}
    )
    with pytest.raises(UserError, match="pairs are of another teacher"):
        run.claim(config.model_copy(update={"teacher": other}))
    shutil.rmtree(config.pairs.output)
    with pytest.raises(UserError, match="run jobs/pairs.py"):
        run.claim(config)


def test_export_is_the_averaged_student(tiny, tmp_path):
    config, keeper = tiny(), Keeper(tmp_path / "kept")
    loop.run(config, Cluster(None, keeper.report))
    assert not run.finished(config)
    run.export(config, keeper.folder / "10")
    assert run.finished(config)
    average = read(keeper.folder / "10")["ema"]
    student = load_student(config.evaluate.student)
    for name, value in student.state_dict().items():
        assert torch.equal(value, average[f"module.{name}"])


def test_a_torn_checkpoint_is_one_clear_line(tiny, tmp_path):
    keeper = Keeper(tmp_path / "kept")
    loop.run(tiny(steps=6), Cluster(None, keeper.report))
    file = keeper.folder / "6" / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        loop.run(tiny(), Cluster(keeper.folder / "6", keeper.report))
