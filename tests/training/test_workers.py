"""The same optimisation on any number of workers, whole, broken and resized."""

import pytest
import torch

from pipeline.config import Config
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.runs.checkpoint import read_part
from pipeline.runs.run import Run
from tests.fixtures.metrics import lines
from tests.fixtures.trained import digests
from tests.fixtures.workers import train

FOUR_LANES = {"lanes": 4, "checkpoint_every": 100}
DMD2 = {
    "gan": {"real": "pairs", "student_weight": 0.5, "critic_weight": 0.5},
    "student": {"every": 2, "times": [80.0, 3.0]},
    "critic": {"ida": 0.9},
    "terms": {"isg": {}},
}


def weights(config) -> dict[str, torch.Tensor]:
    with Run(config).checkpoints.newest() as found:
        assert found[0].step == config.distill.steps
        parts = ("student", "critic", "ema")
        return {f"{part}.{k}": v for part in parts for k, v in read_part(found[1], part).items()}


@pytest.mark.parametrize(
    ("lanes", "more"), [pytest.param(4, {}, marks=pytest.mark.cluster), (3, DMD2)]
)
def test_sharded_networks_take_the_steps_of_copied_ones(tiny_run, lanes, more):
    """Also where the workers' lanes are not as many; and one worker goes on from there."""
    settings = {
        **more,
        "lanes": lanes,
        "batch_size": 12,
        "regression": {"batch_size": 12},
        "log_every": 1,
    }
    settings |= {"steps": 12, "checkpoint_every": 12}
    copied, sharded = (
        tiny_run(f"{name}", **settings, sharded=name == "sharded") for name in ("copied", "sharded")
    )
    train(copied, 2)
    train(sharded, 2)
    for ours, theirs in zip(lines(sharded), lines(copied), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    weights(sharded)
    longer = tiny_run("sharded", **settings | {"steps": 14})
    train(longer, 1)
    assert lines(longer)[-1]["step"] == 14


def test_in_float64_any_number_of_workers_takes_the_same_20_steps(tiny_run):
    settings = {**FOUR_LANES, **DMD2, "steps": 20, "clip": 0.1}
    alone = tiny_run("alone", **settings)
    train(alone, 1, double=True)
    expected = weights(alone)
    assert expected["student.unet.conv_in.weight"].dtype == torch.float64
    for ways in ([2], [3], [2, 1, 2]):
        config = tiny_run("-".join(map(str, ways)), **settings)
        for number, workers in enumerate(ways, 1):
            train(config, workers, 6 if number < len(ways) else None, double=True)
        found = weights(config)
        for name in expected.keys() - {"ema.n_averaged"}:
            error = (found[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
            assert error < 1e-9, (ways, name, float(error))


@pytest.mark.cluster
@pytest.mark.parametrize(("workers", "more"), [(2, {}), (3, DMD2)])
def test_a_broken_run_of_several_workers_ends_with_the_same_bits(tiny_run, workers, more):
    whole, broken = (tiny_run(name, **FOUR_LANES, **more) for name in ("whole", "broken"))
    train(whole, workers)
    train(broken, workers, 2)
    train(broken, workers, 4)
    train(broken, workers)
    assert digests(whole) == digests(broken)


@pytest.fixture
def unet_taught(tiny_run, tmp_path):
    """Makes a run without pairs whose teacher is a UNet."""

    def make(run: str, adapters: dict | None = None, **distill: object) -> Config:
        config = tiny_run(run, regression_steps=0, regression={"weight": 0.0}, **distill)
        network = config.network.model_copy(update={"attention": (bool(adapters),)})
        teacher = new_unet(network, config.shape, 3, seed=7)
        save_denoiser(teacher, tmp_path / "teacher", {})
        tree = config.model_dump(mode="json")
        tree["teacher"] |= {"kind": "diffusers", "output": str(tmp_path / "teacher")}
        for name in ("student", "critic"):
            tree["distill"][name] |= adapters or {}
        return Config.model_validate(tree | {"data": {"name": "digits", "size": 4}})

    return make


@pytest.mark.cluster
def test_a_sharded_teacher_teaches_like_a_copied_one(unet_taught):
    settings = {"sharded": True, "log_every": 1, "lanes": 4}
    copied, sharded = (
        unet_taught(name, **settings, shard_teacher=name == "sharded")
        for name in ("copied", "sharded")
    )
    train(copied, 2)
    train(sharded, 2)
    assert len(lines(sharded)) == 10
    for ours, theirs in zip(lines(sharded), lines(copied), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)


@pytest.mark.cluster
def test_sharded_adapters_take_the_steps_of_copied_ones_and_go_on_alone(unet_taught):
    adapters = {"lr": 0.01, "lora": {"rank": 2}}
    settings = {"log_every": 1, "lanes": 4, "steps": 6}
    copied, sharded = (
        unet_taught(name, adapters, **settings, sharded=name == "sharded")
        for name in ("copied", "sharded")
    )
    train(copied, 2)
    train(sharded, 2)
    for ours, theirs in zip(lines(sharded), lines(copied), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert all("lora_" in name for name in weights(sharded).keys() - {"ema.n_averaged"})
    train(unet_taught("sharded", adapters, **settings | {"steps": 8}, sharded=True), 1)


@pytest.mark.cluster
def test_over_a_base_in_fewer_bits_two_workers_take_the_steps_of_one(unet_taught):
    adapters = {"lr": 0.01, "lora": {"rank": 2}}
    settings = {"log_every": 1, "lanes": 2, "burn_in_steps": 0, "steps": 4}
    trees = [unet_taught(name, adapters, **settings).model_dump(mode="json") for name in "ab"]
    one, two = (
        Config.model_validate(each | {"distill": each["distill"] | {"quantize": "int8"}})
        for each in trees
    )
    train(one, 1)
    train(two, 2)
    for ours, theirs in zip(lines(two), lines(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert all("lora_" in name for name in weights(two).keys() - {"ema.n_averaged"})


def test_bf16_stays_near_fp32_and_keeps_its_weights_in_fp32(unet_taught):
    exact, half = unet_taught("exact", precision="fp32"), unet_taught("half", precision="bf16")
    for config in (exact, half):
        train(config, 1)
    for ours, theirs in zip(lines(half), lines(exact), strict=True):
        assert ours["critic"] == pytest.approx(theirs["critic"], rel=0.05)
        assert ours["critic"] != theirs["critic"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(half).values())


@pytest.mark.cluster
@pytest.mark.parametrize("settings", [{}, {"sharded": True}], ids=["copied", "sharded"])
def test_bf16_of_two_workers_stays_near_that_of_one(unet_taught, settings):
    one, two = (
        unet_taught(name, precision="bf16", log_every=1, lanes=4, **more)
        for name, more in (("one", {}), ("two", settings))
    )
    train(one, 1)
    train(two, 2)
    for ours, theirs in zip(lines(two), lines(one), strict=True):
        assert ours["critic"] == pytest.approx(theirs["critic"], rel=0.05)
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(two).values())
