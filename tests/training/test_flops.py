"""FLOPs of a step are those that PyTorch counts, and their rate and share are in the log."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import Config
from pipeline.models.condition import ClassLabels
from pipeline.models.families import gaussian
from pipeline.models.families.gaussian import GaussianMixture
from pipeline.training import build, clock, log_metrics, loop
from pipeline.training.clock import Clock
from pipeline.training.peaks import PEAKS, peak
from tests.fixtures.flops import ON_CPU
from tests.fixtures.methods import first_class

GAN = {"gan": {"real": "pairs", "student_weight": 0.1, "smoothness": 0.1}}
FEW = {"student": {"times": [80.0, 2.0, 0.5], "every": 2}, "regression": {"weight": 0}}
RECIPES = {
    "plain": {},
    "recompute": {"recompute": True},
    "gan": GAN,
    "gan-shared": {**GAN, "draws": "shared"},
    "gan-recompute": {**GAN, "recompute": True},
    "few-steps": {**FEW, "gan": GAN["gan"]},
    "sid": {"matching": {"loss": "sid"}},
    "isg": {**FEW, "terms": {"isg": {}}},
    "sgmd": {"matching": {"loss": "sgmd"}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_takes_what_torch_counts(name, tiny_run):
    training = build.prepare(tiny_run(**RECIPES[name]))
    for step in (0, 4, 6, 7, 8, 9):
        microbatches = training.microbatches(step)
        with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            training.step(step, microbatches)
        assert training.flops(step) == pytest.approx(counter.get_total_flops(), rel=0.01), step


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_takes_what_its_steps_do(every, tiny_run):
    training = build.prepare(tiny_run(student={"every": every}))
    steps = training.step.method.recipe.distill.steps
    assert training.flops.run == pytest.approx(sum(map(training.flops, range(steps))), rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_guidance_counts_whichever_loss_has_it(weight, tiny_run, monkeypatch):
    """Under a teacher with products of matrices; a class stands for none, which asks for all."""

    def correlated(shape: tuple[int, int, int], classes: int, _: float) -> GaussianMixture:
        basis = torch.eye(16).expand(classes, 16, 16)
        return GaussianMixture(torch.randn(classes, 16), torch.ones(classes, 16), basis, shape)

    monkeypatch.setattr(gaussian, "gaussian_teacher", correlated)
    monkeypatch.setattr(ClassLabels, "null", first_class)
    tree = tiny_run(regression_steps=0, regression={"weight": 0.0}).model_dump(mode="json")
    tree["pairs"]["guidance"] = 3.0
    tree["distill"]["augmentation"]["weight"] = weight
    training = build.prepare(Config.model_validate(tree))
    for step in (0, 5):
        microbatches = training.microbatches(step)
        with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            training.step(step, microbatches)
        assert training.flops(step) == pytest.approx(counter.get_total_flops(), rel=1e-3), step


def lines(config) -> list[dict]:
    file = Path(config.distill.output) / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_log_has_what_its_steps_took(tiny_run, monkeypatch):
    config = tiny_run(log_every=5)
    monkeypatch.setattr(log_metrics, "peak", lambda name, precision: 0.5)
    flops = build.prepare(config).flops
    loop.train(config)
    for line, steps in zip(lines(config), (range(5), range(5, 10)), strict=True):
        took = sum(map(flops, steps)) / 5 / line["seconds_step"]
        assert line["tflops"] == pytest.approx(took / 1e12)
        assert line["mfu"] == pytest.approx(line["tflops"] / 0.5)


def test_networks_that_cannot_be_counted_stop_no_run(tiny_run, monkeypatch, caplog):
    def reads(*_: object) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr("pipeline.training.flops.blank", reads)
    config = tiny_run(steps=6)
    assert loop.train(config) == 6
    assert "no tflops: the networks cannot be counted" in caplog.text
    assert all("tflops" not in line and "mfu" not in line for line in lines(config))


@pytest.mark.parametrize(
    ("device", "bf16", "tf32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 156),
        ("NVIDIA H100 80GB HBM3", 989, 494),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H200 NVL", 835, 417),
        ("NVIDIA GB200", 2500, 1250),
        ("NVIDIA L40S", 362, 183),
        ("NVIDIA L4", 121, 60),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA L400", None, None),
        ("CPU", None, None),
    ],
)
def test_peaks_are_found_by_the_names_of_gpus(device, bf16, tf32):
    assert (peak(device, "bf16"), peak(device, "fp32")) == (bf16, tf32)


def test_every_peak_is_found_by_its_own_name():
    for name, found in PEAKS.items():
        assert peak(f"NVIDIA {name}", "bf16") == found.bf16


class FakeGPU:
    """A GPU in a test: a clock, and work that takes it seconds after it is given."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.free = 0.0, 0.0
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: FakeEvent(self))

    def step(self, host: float, device: float, pieces: int = 100) -> None:
        """Work in pieces, each given by the host before the next."""
        for _ in range(pieces):
            self.now += host / pieces
            self.free = max(self.free, self.now) + device / pieces


class FakeEvent:
    def __init__(self, gpu: FakeGPU) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.at = max(self.gpu.free, self.gpu.now)

    def query(self) -> bool:
        return self.gpu.now >= self.at

    def elapsed_time(self, other: "FakeEvent") -> float:
        return 1000 * (other.at - self.at)


@pytest.mark.parametrize(
    ("host", "device", "spent", "giving"), [(1.0, 0.2, 1.0, 1.0), (0.2, 1.0, 1.0, 0.1)]
)
def test_the_clock_tells_who_waits_for_whom(host, device, spent, giving, monkeypatch):
    gpu = FakeGPU(monkeypatch)
    counting = Clock(torch.device("cuda"))
    for _ in range(3):
        for _ in range(2):
            with counting("student"):
                gpu.step(host, device)
        gpu.now = max(gpu.now, gpu.free)  # the log waits for it
        found = counting.split(2)
        assert found["seconds_student"] == pytest.approx(host)
        assert found["seconds_device"] == pytest.approx(spent, rel=0.02)
        assert found["seconds_host"] == pytest.approx(giving, rel=0.1)


def test_it_is_told_once_that_the_host_limits(tiny_run, monkeypatch, caplog):
    plain = Clock.split

    def split(self, steps):
        return {**plain(self, steps), "seconds_device": 1.0, "seconds_host": 0.99}

    monkeypatch.setattr(Clock, "split", split)
    with caplog.at_level(logging.WARNING):
        loop.train(tiny_run())
    assert caplog.text.count("raise distill.batch_size") == 1
