"""A run at several sizes: broken, on other numbers of workers, and what it refuses."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from pipeline.config import Config
from pipeline.data import shards
from pipeline.data.local import LocalStore
from pipeline.data.plans import RealPlan
from pipeline.data.reader import RealReader
from pipeline.diffusion.buckets import Buckets
from pipeline.models.loading import load_teacher
from pipeline.runs.checkpoint import read_part
from pipeline.runs.checkpoint_store import CheckpointStore
from pipeline.runs.run import Run
from pipeline.stages.encode import real_plan
from pipeline.stages.plan import Plan
from pipeline.stages.score import score
from pipeline.stages.verify import inspect, inspect_real, verify, verify_real
from pipeline.training import build, loop
from pipeline.training.gan_images import new_source
from pipeline.training.memory import footprint
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import content, picture, save_files
from tests.fixtures.in_process import encode_images, make_pairs
from tests.fixtures.metrics import lines
from tests.fixtures.tiny_models import save_tiny
from tests.fixtures.trained import digests
from tests.fixtures.workers import train

BUCKETS = [
    {"size": [16, 16], "weight": 2},
    {"size": [24, 16], "weight": 1},
    {"size": [16, 32], "weight": 1},
]
SHAPES = ((4, 8, 8), (4, 12, 8), (4, 8, 16))
ENCODED = {"real": "encoded", "student_weight": 0.5, "critic_weight": 0.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a teacher whose flow is shifted by the size, and its pairs of three shapes."""
    folder = tmp_path_factory.mktemp("buckets")
    save_tiny(folder / "teacher", "flux-dev")
    scheduler = folder / "teacher" / "scheduler" / "scheduler_config.json"
    ends = {"base_image_seq_len": 16, "max_image_seq_len": 32, "base_shift": 0.5, "max_shift": 2.0}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | ends))
    (folder / "all.prompts").write_text('"a cat"\n"a dog"\n')
    words = ("a cat", "a dog")
    photos = [(f"{n:02}.png", content(picture(n, (30, 26))), words[n % 2]) for n in range(14)]
    save_files(folder / "images", photos)
    make_pairs(configured(folder, "none"))
    encode_images(configured(folder, "none"))
    return folder


def configured(folder: Path, run: str, **more: object) -> Config:
    """A run of all terms on the sets of a folder; `more` are settings of `distill`."""
    return Config.model_validate(
        {
            "run": str(folder / run),
            "data": {"name": None},
            "teacher": {
                "output": str(folder / "teacher"),
                "prompts": str(folder / "all.prompts"),
                "buckets": BUCKETS,
            },
            "pairs": {
                "output": str(folder / "pairs"),
                "count": 24,
                "shard_size": 3,
                "solver": "euler",
                "steps": 2,
                "resolve": 6,
            },
            "encode": {
                "source": str(folder / "images"),
                "output": str(folder / "real"),
                "shard_size": 3,
            },
            "distill": {
                "steps": 6,
                "regression_steps": 2,
                "burn_in_steps": 1,
                "batch_size": 8,
                "lanes": 4,
                "regression": {"batch_size": 8},
                "student": {"times": [1.0, 0.5]},
                "gan": {"real": "pairs", "student_weight": 0.5, "critic_weight": 0.5},
                "checkpoint_every": 1,
                "sample_every": 6,
                "log_every": 1,
                **more,
            },
        }
    )


def changed(config: Config, branch: str, **settings: object) -> Config:
    tree = config.model_dump(mode="json")
    tree[branch] |= settings
    return Config.model_validate(tree)


class Killed(BaseException):
    """Stands in for a SIGKILL."""


def die_after(monkeypatch, step: int) -> None:
    commit = CheckpointStore.commit

    def dying(self, which):
        commit(self, which)
        if which.step == step:
            raise Killed

    monkeypatch.setattr(CheckpointStore, "commit", dying)


def weights(config: Config) -> dict[str, torch.Tensor]:
    with Run(config).checkpoints.newest() as found:
        assert found[0].step == config.distill.steps
        parts = ("student", "critic", "ema")
        return {f"{part}.{k}": v for part in parts for k, v in read_part(found[1], part).items()}


@pytest.fixture(scope="module")
def whole(made) -> Config:
    """A run of six steps that nothing broke."""
    config = configured(made, "whole")
    Run(config).claim()
    assert loop.train(config) == 6
    return config


@pytest.fixture(scope="module")
def on_encoded(made) -> Config:
    """The same, whose GAN judges encoded images."""
    config = configured(made, "encoded", gan=ENCODED)
    Run(config).claim()
    assert loop.train(config) == 6
    return config


@pytest.mark.parametrize(("judged", "kills"), [("whole", (1, 2, 4)), ("on_encoded", (4,))])
def test_killed_again_and_again_it_ends_with_the_same_bits(
    made, judged, kills, request, monkeypatch
):
    whole = request.getfixturevalue(judged)
    broken = changed(whole, "distill", output=str(made / f"broken-{judged}"))
    Run(broken).claim()
    for step in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_after(patch, step)
            loop.train(broken)
    loop.train(broken)
    assert digests(broken) == digests(whole)


@pytest.mark.cluster
def test_in_float64_two_workers_take_the_steps_of_one(made):
    more = {"checkpoint_every": 6, "gan": ENCODED}
    alone, two = (configured(made, name, **more) for name in ("alone", "two"))
    train(alone, 1, double=True)
    train(two, 2, double=True)
    expected, found = weights(alone), weights(two)
    for name in expected.keys() - {"ema.n_averaged"}:
        error = (found[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
        assert error < 1e-9, (name, float(error))


@pytest.mark.parametrize("real", ["pairs", "encoded"])
def test_microbatches_come_in_their_shares_and_all_of_one_is_of_one_shape(made, real):
    config = configured(made, f"drawn-{real}", gan={**ENCODED, "real": real})
    training = build.prepare(config)
    teacher = load_teacher(config.teacher)
    shifts = {shape: teacher.at(shape).schedule.shift for shape in SHAPES}
    assert len({*shifts.values()}) == 3 and teacher.buckets == Buckets(SHAPES, (2, 1, 1))
    for step in range(6):  # as many microbatches as the deck has cards
        drawn = training.microbatches(step).values()
        shapes = Counter(tuple(each.noise.shape[1:]) for each in drawn)
        assert shapes == dict(zip(SHAPES, (2, 1, 1), strict=True))
        for each in drawn:
            of_pairs = [each.pairs.images, each.pairs.noise] if each.pairs else []
            real = [each.real.images, each.real.shift] if each.real else []
            assert bool(real) == (step > 1), "as soon as the critic learns"
            others = [each.matching.eps, each.critic.eps, *of_pairs, *real]
            assert {value.shape[1:] for value in others} == {each.noise.shape[1:]}
    seen = [training.microbatches(step) for step in range(3, 40)]
    for shape, shift in shifts.items():
        times = torch.cat(
            [m.matching.t for each in seen for m in each.values() if m.noise.shape[1:] == shape]
        )
        unshifted = times / (shift - (shift - 1) * times)
        assert 0.2 <= unshifted.min() < 0.25 and 0.7 < unshifted.max() <= 0.75


@pytest.mark.cluster
def test_sharded_networks_take_the_steps_of_copied_ones(made):
    copied, sharded = (
        configured(made, name, sharded=name == "sharded", checkpoint_every=6)
        for name in ("copied", "sharded")
    )
    train(copied, 2)
    train(sharded, 2)
    for ours, theirs in zip(lines(sharded), lines(copied), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_every_pair_comes_once_an_epoch_of_its_bucket(made):
    training = build.prepare(configured(made, "epochs", regression_steps=5, burn_in_steps=0))
    epochs = []
    for first in (0, 3):  # of four microbatches of two pairs three steps take all 24
        drawn = [training.microbatches(step) for step in range(first, min(first + 3, 5))]
        epochs.append([id for each in drawn for m in each.values() for id in m.pairs.ids.tolist()])
    assert sorted(epochs[0]) == list(range(24)) and len({*epochs[1]}) == len(epochs[1]) == 16
    assert epochs[0][:16] != epochs[1]


def test_a_run_of_one_size_reads_its_bucket_and_one_of_several_begins_with_it(made):
    several = configured(made, "begun")
    one = changed(configured(made, "one", steps=3), "teacher", buckets=[], image_size=16)
    training = build.prepare(one)
    assert {each.noise.shape for each in training.microbatches(0).values()} == {(2, 4, 8, 8)}
    Run(one).claim()
    loop.train(one)
    Run(one).finish()
    begun = changed(several, "distill", start_from=one.distill.output, steps=3)
    Run(begun).claim()
    assert loop.train(begun) == 3


def test_a_bucket_has_the_images_that_a_set_of_its_size_alone_has(made):
    """Cut and encoded alike, and each in one bucket; the discriminator sees no others there."""
    config, seen = configured(made, "several", gan=ENCODED), []
    store = LocalStore(made / "real")
    teacher = load_teacher(config.teacher)
    manifest = shards.read_manifest(store, RealPlan)
    assert manifest.plan.buckets == teacher.buckets and len(manifest.shards) == 5
    for shape, bucket in zip(SHAPES, BUCKETS, strict=True):
        one = changed(config, "teacher", buckets=[], image_size=bucket["size"])
        one = changed(one, "encode", output=str(made / f"real-{shape}"))
        encode_images(one)
        whole = RealReader(LocalStore(made / f"real-{shape}"), 0, 14).batch(0)
        columns = whole.captions, whole.images
        alike = dict(zip(whole.ids.tolist(), zip(*columns, strict=True), strict=True))
        part = manifest.of(shape)
        mine = RealReader(store, 0, part.count, manifest=part).batch(0)
        for id, caption, image in zip(mine.ids.tolist(), mine.captions, mine.images, strict=True):
            assert caption == alike[id][0] and torch.equal(image, alike[id][1])
        seen += mine.ids.tolist()
        drawn, label = new_source(config, teacher.at(shape))(0)
        for image, prompt in zip(drawn, label.tolist(), strict=True):
            (id,) = (n for n, each in enumerate(mine.images) if torch.equal(each, image))
            assert mine.captions[id] == teacher.prompts[prompt]
    assert sorted(seen) == list(range(14))


def test_videos_of_several_lengths_are_made_and_verified(made, capsys):
    save_tiny(made / "wan", "wan")
    buckets = [{"size": [5, 16, 16]}, {"size": [3, 32, 16]}]
    videos = changed(
        configured(made, "videos"), "teacher", output=str(made / "wan"), buckets=buckets
    )
    videos = changed(videos, "pairs", count=4, shard_size=2, output=str(made / "videos"))
    make_pairs(videos)
    verify(videos)
    shown = capsys.readouterr().out
    assert "4 pairs are sound" in shown and "4 pairs solved again" in shown
    drawn = build.prepare(videos).microbatches(0).values()
    assert {each.pairs.images.shape[1:] for each in drawn} == {(4, 3, 8, 8), (4, 2, 16, 8)}
    with pytest.raises(UserError, match=r"encode\.source: the teacher makes videos"):
        real_plan(videos, None)
    odd = changed(videos, "teacher", buckets=[*buckets, {"size": [4, 16, 16]}])
    with pytest.raises(UserError, match=r"teacher\.buckets: 4 frames are not 2 k \+ 1, .* 3 or 5"):
        make_pairs(odd)


def test_a_set_of_several_sizes_is_verified_and_shown(made, capsys):
    config = configured(made, "looked")
    verify(config)
    assert "6 pairs solved again" in capsys.readouterr().out
    inspect(config)
    assert "4x8x8 or 4x12x8 or 4x8x16" in capsys.readouterr().out
    assert "buckets: of 4 microbatches 16x16 (2), 24x16 (1), 16x32 (1)" in Plan(config).lines
    verify_real(config)
    inspect_real(config)
    shown = capsys.readouterr().out
    assert "14 images are sound" in shown and "4x8x8 or 4x12x8 or 4x8x16" in shown
    assert "from     16x16 or 24x16 or 16x32 pixels" in shown


def test_pictures_and_scores_may_be_of_any_bucket(made, whole):
    """Neither changes the run, nor what its pairs are of."""
    wide = changed(whole, "teacher", image_size=[16, 32])
    assert Run(wide).fingerprint == Run(whole).fingerprint
    assert load_teacher(wide.teacher).shape == SHAPES[2]
    wide = changed(wide, "distill", scoring={"count": 2, "batch_size": 2})
    assert score(wide, Run(wide).commits()[0].name).fd_teacher >= 0
    make_pairs(wide)
    often = changed(whole, "teacher", buckets=[{**BUCKETS[0], "weight": 3}, *BUCKETS[1:]])
    assert Run(often).fingerprint != Run(whole).fingerprint


def test_the_memory_forecast_is_of_the_largest(made):
    config, counted = configured(made, "counted"), []
    for buckets in (BUCKETS, BUCKETS[2:], BUCKETS[:1]):
        one = changed(config, "teacher", buckets=buckets)
        counted.append(footprint(one, load_teacher(one.teacher)).activations)
    assert abs(counted[0] - counted[1]) < 0.1 * (counted[0] - counted[2])


def test_what_does_not_fit_is_one_line(made):
    config = configured(made, "wrong")
    few = changed(changed(config, "pairs", count=3), "pairs", output=str(made / "few"))
    with pytest.raises(UserError, match=r"pairs\.count: 1 shards hold none of"):
        make_pairs(few)
    assert not (made / "few").exists()
    other, wide = changed(config, "teacher", buckets=[*BUCKETS, {"size": [32, 32]}]), (4, 16, 16)
    with pytest.raises(UserError, match=r"pairs\.output: .*, and no row is of 4x16x16, .* jobs/p"):
        build.prepare(other)
    with pytest.raises(UserError, match=r"pairs\.output: .* is of another one: it has shapes"):
        make_pairs(other)
    with pytest.raises(UserError, match=r"encode\.output: .*, and no row is of 4x16x16, .* jobs/e"):
        new_source(changed(other, "distill", gan=ENCODED), load_teacher(other.teacher).at(wide))
    with pytest.raises(UserError, match=r"encode\.output: .* is of another one: it has shapes"):
        encode_images(other)
    with pytest.raises(UserError, match=r"encode\.size: 16, but teacher\.buckets has 3 sizes"):
        real_plan(changed(config, "encode", size=16), None)
    large = changed(config, "encode", shard_size=14, output=str(made / "large"))
    with pytest.raises(UserError, match=r"encode\.shard_size: 1 shards of 14 .*; use 3 or less"):
        encode_images(large)
    assert not list((made / "large").glob("plan.json"))
