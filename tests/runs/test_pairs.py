"""The pairs that a run reads, while the set grows."""

from pathlib import Path

import pytest

from pipeline.cluster.doctor import Examination
from pipeline.config import Config
from pipeline.data.storage import Storage
from pipeline.runs.identity import definition
from pipeline.runs.run import Run
from pipeline.stages.score import score
from pipeline.training import loop
from pipeline.training.gan_images import new_source
from pipeline.utils.errors import UserError
from tests.fixtures.in_process import make_pairs

GAN = {"gan": {"real": "pairs"}}


def grown(config: Config) -> Config:
    """The settings of twice as many pairs, which are made."""
    more = config.model_copy(update={"pairs": config.pairs.model_copy(update={"count": 64})})
    make_pairs(more)
    return more


def begun(config: Config) -> Run:
    run, answers = Run(config), iter([False, True])
    run.claim()
    assert loop.train(config, lambda: next(answers)) == 4
    return run


@pytest.mark.parametrize("terms", [{}, GAN])
def test_a_run_ends_alike_whether_or_not_the_set_has_grown_meanwhile(tiny_run, terms):
    quiet, config = tiny_run("quiet", **terms), tiny_run("grown", **terms)
    Run(quiet).claim()
    loop.train(quiet)
    Run(quiet).finish()

    began = begun(config)
    assert not began.hints()
    more = grown(config)
    for settings in (config, more):  # pairs.count raised there or not
        run = Run(settings)
        run.claim()
        assert "distill.output" in " ".join(run.hints())
        assert "distill.output" in Examination(settings).check_store("distill")
        assert run.pairs.manifest.count == 32
    assert loop.train(more) == 10
    Run(more).finish()
    assert Run(more).is_finished() and Run(config).is_finished()
    states = [Path(each.distill.output, "state.json").read_text() for each in (quiet, config)]
    assert states[0] == states[1]


def test_all_that_reads_the_pairs_of_a_run_reads_those_it_began_with(tiny_run):
    config = tiny_run(**GAN, scoring={"count": 8, "batch_size": 8})
    run = begun(config)

    def read() -> tuple:
        images, _ = new_source(config, run_teacher(config))(0)
        batch = Run(config).pairs.reader(config.seed, 8, config.shape).batch(0)
        name = run.checkpoints.commits()[0].name
        return images.tolist(), batch.ids.tolist(), definition(config), score(config, name)

    before = read()
    grown(config)
    assert read() == before


def run_teacher(config: Config):
    from pipeline.models.loading import load_teacher

    return load_teacher(config.teacher)


def test_a_new_run_reads_the_largest_set(tiny_run):
    grown(tiny_run())
    other = tiny_run("other")
    Run(other).claim()
    assert Run(other).pairs.manifest.count == definition(other)["pairs"]["count"] == 64


def test_a_set_that_lost_the_manifest_a_run_began_with_gets_it_back(tiny_run):
    config = tiny_run()
    begun(config)
    grown(config)
    Path(config.pairs.output, "manifest-32.json").unlink()
    with pytest.raises(UserError, match=r"manifest-32\.json.*pairs\.count 32"):
        Run(config).claim()
    shards = Storage(config.pairs.output, config.s3, "pairs.output").tree()
    make_pairs(config)
    Run(config).claim()
    after = Storage(config.pairs.output, config.s3, "pairs.output").tree()
    assert {name: after[name] for name in shards} == shards


def test_a_set_of_another_plan_is_told_and_not_taken_for_a_smaller_one(tiny_run):
    config = tiny_run()
    begun(config)
    for path in Path(config.pairs.output).iterdir():
        path.unlink()
    make_pairs(config.model_copy(update={"seed": 5}))
    with pytest.raises(UserError, match=r"pairs\.plan"):
        Run(config).claim()


@pytest.mark.parametrize("damaged", ["{", "[]", '{"pairs": 3}', '{"pairs": {"plan": 1}}'])
def test_a_damaged_mark_is_told_by_the_claim(tiny_run, damaged):
    config = tiny_run()
    run = begun(config)
    Path(run.storage.uri("run.json")).write_text(damaged)
    with pytest.raises(UserError, match=r"run\.json"):
        Run(config).claim()
