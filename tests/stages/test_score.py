"""How good a checkpoint is, and that the best one is kept and picked."""

import logging
from pathlib import Path

import pytest
import torch

from pipeline.data.reader import PairReader
from pipeline.data.storage import Storage
from pipeline.diffusion import seeds
from pipeline.evaluation.metrics.frechet import frechet_distance
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student
from pipeline.runs.checkpoint import read_part
from pipeline.runs.checkpoint_store import Score
from pipeline.runs.run import Run
from pipeline.stages.score import score
from pipeline.training import loop
from pipeline.utils.errors import UserError


def names(config) -> list[str]:
    return [commit.name for commit in Run(config).checkpoints.commits()]


def note(config, step: int, fd: float) -> None:
    checkpoints = Run(config).checkpoints
    commit = next(each for each in checkpoints.commits() if each.step == step)
    checkpoints.note(commit, Score(fd, 32))


def test_it_is_the_distance_of_new_samples_to_the_images_of_the_pairs(tiny_run):
    config = tiny_run(scoring={"count": 1000, "batch_size": 7})
    loop.train(config)
    Run(config).finish()
    found = score(config, names(config)[0])
    assert found.n == 32, "all pairs there are"
    assert found.features == "pixels"

    pairs = PairReader(
        Storage(config.pairs.output, config.s3, "pairs.output"), config.seed, 32
    ).batch(0)
    noise = seeds.noise(config.seed, torch.arange(32), (1, 4, 4), seeds.SCORE)
    images = sample_student(load_student(config.evaluate.student), noise, pairs.labels)
    expected = frechet_distance(pairs.images.flatten(1), images.flatten(1))
    assert found.fd_teacher == pytest.approx(expected, rel=1e-4)

    noise = seeds.noise(config.seed, torch.arange(64, 96), (1, 4, 4), seeds.SCORE)
    again = sample_teacher(load_teacher(config.teacher), noise, pairs.labels, "heun", 3, 1.0)
    floor = frechet_distance(pairs.images.flatten(1), again.flatten(1))
    assert found.floor == pytest.approx(floor, rel=1e-4)
    known = score(config, names(config)[0], floor=0.5)
    assert (known.floor, known.fd_teacher) == (0.5, found.fd_teacher)


def test_without_pairs_the_teacher_makes_its_images(tiny_run):
    config = tiny_run(regression_steps=0, regression={"weight": 0.0}, scoring={"count": 64})
    loop.train(config)
    found = score(config, names(config)[0])
    assert found.n == 64
    teacher, labels = load_teacher(config.teacher), torch.arange(64) % 3
    noise = seeds.noise(config.seed, torch.arange(64, 128), (1, 4, 4), seeds.SCORE)
    target = sample_teacher(teacher, noise, labels, "heun", 3, 1.0)
    Run(config).finish()
    noise = seeds.noise(config.seed, torch.arange(64), (1, 4, 4), seeds.SCORE)
    images = sample_student(load_student(config.evaluate.student), noise, labels)
    expected = frechet_distance(target.flatten(1), images.flatten(1))
    assert found.fd_teacher == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_that_is_gone_has_no_score(tiny_run):
    config = tiny_run()
    loop.train(config)
    with pytest.raises(UserError, match="0000002-gone is gone"):
        score(config, "0000002-gone")


def test_the_best_checkpoint_stays_and_its_student_can_be_picked(tiny_run):
    loop.train(tiny_run(steps=6))
    note(tiny_run(), 6, 0.5)
    note(tiny_run(), 4, 0.1)
    config = tiny_run(scoring={"count": 10}, pick="best")
    loop.train(config)
    assert [int(name[:7]) for name in names(config)] == [10, 8, 4]
    note(config, 10, 0.3)
    Run(config).finish()
    with Run(config).checkpoints.newest(only=names(config)[-1]) as found:
        assert found[0].step == 4
        average = read_part(found[1], "ema")
    for name, value in load_student(config.evaluate.student).state_dict().items():
        assert torch.equal(value, average[f"module.{name}"])
    assert Run(config).is_finished()
    assert not Run(tiny_run()).is_finished(), "the last one is another student"


def test_a_torn_best_and_a_missing_score_are_told(tiny_run, caplog):
    config = tiny_run(scoring={"count": 10}, pick="best")
    loop.train(config)
    with pytest.raises(UserError, match="distill.pick: no checkpoint has a score; set it to last"):
        Run(config).finish()
    note(config, 8, 0.1)
    torn = next(Path(config.distill.output).glob("checkpoints/0000008-*/*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="of step 8, is torn"):
        Run(config).finish()
    assert not Path(config.evaluate.student).exists()
