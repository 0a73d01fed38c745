"""bench/gpu.py runs without a GPU, on tiny networks; its real ones have the released sizes."""

import json
from dataclasses import replace

import gpu
import pytest
import torch
from gpu_models import MODELS

from pipeline.models.denoiser import blank

CHEAP = "sd15, pairs in fp32"
WEIGHTS = {"sd15": 860, "sdxl": 2567, "dit": 750, "qwen-image": 20430, "wan-1.3b": 1419}
"""Millions, of the backbone."""


@pytest.mark.parametrize("title", [title for title, case in gpu.CASES.items() if case.model])
@pytest.mark.parametrize("tiny", [False, True], ids=["real", "tiny"])
def test_every_case_has_settings(title, tiny, tmp_path):
    config = gpu.CASES[title].config(tiny, tmp_path)
    assert config.distill.batch_size == (2 if tiny else gpu.CASES[title].images)


@pytest.mark.parametrize("name", WEIGHTS)
def test_shapes_are_the_released_ones(name, tmp_path):
    case = next(each for each in gpu.CASES.values() if each.model == name)
    settings = case.config(False, tmp_path).teacher
    teacher = MODELS[name].teacher(settings, False, torch.device("meta"))
    weights = sum(weight.numel() for weight in teacher.backbone.parameters())
    assert round(weights / 1e6) == WEIGHTS[name]
    inputs = blank(teacher, 1)
    assert teacher(*inputs).shape == inputs.x_t.shape


def run(monkeypatch, cases, *flags: str) -> int:
    monkeypatch.setattr(gpu, "CASES", cases)
    monkeypatch.setattr("sys.argv", ["gpu.py", *flags])
    return gpu.main()


def test_after_a_failure_the_rest_runs(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    case, file = gpu.CASES[CHEAP], tmp_path / "found.json"
    cases = {"large": replace(case, measure=fail), CHEAP: case}
    assert run(monkeypatch, cases, "--tiny", "--json", str(file)) == 1
    told = json.loads(file.read_text())["cases"]
    assert "out of memory" in told["large"]["reason"]
    assert told[CHEAP]["figures"]["images/s"] > 0 and not told[CHEAP]["reason"]
    assert "CUDA out of memory" in capsys.readouterr().out


@pytest.mark.parametrize(("title", "code"), [(CHEAP, 0), (gpu.LANE, 1)], ids=["no bar", "bars"])
def test_what_has_no_time_is_said(title, code, monkeypatch, capsys):
    assert run(monkeypatch, {title: gpu.CASES[title]}, "--minutes", "0.5") == code
    said = capsys.readouterr().out
    assert "not run: out of time" in said and ("not measured" in said) == bool(code)


@pytest.mark.parametrize(
    ("figures", "verdict", "code"),
    [({"stall": 1.0}, "holds", 0), ({"stall": 1.1}, "MISSED", 1), ({}, "not measured", 1)],
)
def test_bars_decide(figures, verdict, code, monkeypatch, capsys):
    bars = (gpu.Bar("stall", 1, most=True),)
    case = replace(gpu.CASES[gpu.LANE], measure=lambda *_: dict(figures), bars=bars)
    assert run(monkeypatch, {"any": case}) == code
    assert f"stall <= 1: {verdict}" in capsys.readouterr().out


def test_figures_are_held_against_another_cases(monkeypatch, tmp_path):
    speeds = {gpu.LANE: 40.0, "few": 30.0}
    few = next(each for each in gpu.CASES.values() if each.against == gpu.LANE)
    cases = {
        title: replace(few, measure=lambda *_, fast=fast: {"images/s": fast}, bars=())
        for title, fast in speeds.items()
    }
    assert run(monkeypatch, cases, "--json", str(tmp_path / "found.json")) == 0
    told = json.loads((tmp_path / "found.json").read_text())["cases"]
    assert told["few"]["figures"]["times"] == pytest.approx(0.75)
