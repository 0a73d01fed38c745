"""The same optimisation on any number of workers, whole, broken and resized."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.distill import run
from pipeline.distill.checkpoint import read_part
from tests.distill.workers import train

FOUR_LANES = {"lanes": 4, "checkpoint_every": 100}


def weights(config) -> dict[str, torch.Tensor]:
    with run.history(config).newest() as found:
        assert found[0].step == config.distill.steps
        parts = ("student", "critic", "ema")
        return {f"{part}.{k}": v for part in parts for k, v in read_part(found[1], part).items()}


def digests(config) -> dict:
    run.export(config)
    return json.loads((Path(config.distill.output) / "state.json").read_text())


def test_in_float64_any_number_of_workers_takes_the_same_20_steps(tiny):
    settings = {**FOUR_LANES, "steps": 20, "clip": 0.1}
    alone = tiny("alone", **settings)
    train(alone, 1, double=True)
    expected = weights(alone)
    assert expected["student.unet.conv_in.weight"].dtype == torch.float64
    for ways in ([2], [3], [2, 1, 2]):
        config = tiny("-".join(map(str, ways)), **settings)
        for number, workers in enumerate(ways, 1):
            train(config, workers, 6 if number < len(ways) else None, double=True)
        found = weights(config)
        for name in expected.keys() - {"ema.n_averaged"}:
            error = (found[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
            assert error < 1e-9, (ways, name, float(error))


@pytest.mark.parametrize("workers", [2, 3])
def test_a_broken_run_of_several_workers_ends_with_the_same_bits(tiny, workers):
    whole, broken = (tiny(name, **FOUR_LANES) for name in ("whole", "broken"))
    train(whole, workers)
    train(broken, workers, 2)
    train(broken, workers, 4)
    train(broken, workers)
    assert digests(whole) == digests(broken)
