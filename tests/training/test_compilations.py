"""A run of compiled networks is the run; what is compiled again and again is told."""

import logging

import pytest
import torch
from torch._dynamo.utils import counters

from pipeline.models import compilation
from pipeline.runs.checkpoint import read_part
from pipeline.runs.run import Run
from pipeline.training import loop
from pipeline.training.compilations import Compilations
from tests.fixtures.workers import train

DMD2 = {
    "gan": {"real": "pairs", "student_weight": 0.5, "critic_weight": 0.5},
    "student": {"every": 2, "times": [80.0, 3.0]},
    "recompute": 2,
}


def weights(config) -> dict[str, torch.Tensor]:
    with Run(config).checkpoints.newest() as found:
        assert found[0].step == config.distill.steps
        parts = ("student", "critic", "ema")
        return {f"{part}.{k}": v for part in parts for k, v in read_part(found[1], part).items()}


@pytest.mark.parametrize("how", ["blocks", pytest.param("whole", marks=pytest.mark.prove)])
def test_a_compiled_run_is_the_run(tiny_run, monkeypatch, caplog, how):
    """The names of its weights too; it compiles as long as something is new, and no further."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    torch._dynamo.reset()
    plain, compiled = tiny_run("plain", **DMD2), tiny_run("compiled", **DMD2, compile=how)
    counters.clear()
    loop.train(plain)
    assert not counters["stats"]
    with caplog.at_level(logging.WARNING):
        loop.train(compiled)
    assert counters["stats"]["unique_graphs"] and not counters["graph_break"]
    assert not [each for each in caplog.records if "compile" in each.getMessage()]
    expected, found = weights(plain), weights(compiled)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_a_run_goes_on_compiled_and_recomputing(tiny_run):
    Run(tiny_run(compile="none")).claim()
    Run(tiny_run(compile="blocks", recompute=2)).claim()


@pytest.mark.cluster
def test_several_workers_share_the_gradients_of_compiled_networks(tiny_run):
    plain, compiled = (tiny_run(how, **DMD2, compile=how) for how in ("none", "blocks"))
    train(plain, 2)
    train(compiled, 2)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-5, atol=1e-6)


def test_compiling_again_and_again_is_told_once(caplog):
    hook, compiled = Compilations(sizes=2), counters["stats"]
    before = compiled["unique_graphs"]
    for step in range(1, 60):
        compiled["unique_graphs"] += 3 * (step % 2)
        hook.after_step(step, None)
        assert len(caplog.records) == (step >= 33)
    (line,) = (each.getMessage() for each in caplog.records)
    assert line.startswith("step 33: ") and "in 17 steps" in line and "distill.compile" in line
    compiled["unique_graphs"] = before
