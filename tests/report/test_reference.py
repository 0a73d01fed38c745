"""Curves of healthy runs: of the recipes as they are now, behind the runs that are like them."""

from pathlib import Path

import pytest

from pipeline.cli import load
from pipeline.report import reference
from pipeline.report.curves import curves
from pipeline.report.reference import FOLDER, Reference, alike
from tests.report.run_folder import line
from tests.report.test_page import read

ROOT = Path(__file__).parents[2]


def test_every_reference_is_of_a_recipe_as_it_is_now():
    files = sorted(FOLDER.glob("*.json"))
    assert files and all(file.stat().st_size < 10_000 for file in files)
    for file, known in zip(files, reference._all(), strict=True):
        recipe = load([f"--config={ROOT / 'configs' / file.stem}.yaml"]).model_dump(mode="json")
        assert known.recipe == file.stem
        assert known.alike == alike(recipe), f"{file.name} is of another recipe: make it anew"
        assert all(len(each) == len(known.steps) for each in known.figures.values())


@pytest.fixture
def healthy(folder, monkeypatch):
    """A healthy run that the folder's is like."""
    run = read(folder)
    figures = {"regression": [0.5, None, 0.25], "gan_critic": [1.0, 1.0, 1.0]}
    known = Reference("digits", "", alike(run.settings), [10, 20, 30], figures)
    monkeypatch.setattr(reference, "_all", lambda: [known])
    return run


def test_a_healthy_run_is_drawn_behind_one_that_is_like_it(healthy):
    (chart,) = [each for each in curves(healthy) if any(line.behind for line in each.lines)]
    behind, *own = chart.lines
    assert behind.points == [(10.0, 0.5), (30.0, 0.25)] and chart.last == 30
    assert not any(line.behind for line in own)
    healthy.settings["distill"]["student"]["lr"] *= 2
    assert any(line.behind for each in curves(healthy) for line in each.lines)
    healthy.metrics = [{"step": each["step"]} for each in map(line, range(3))]
    assert not any(line.behind for each in curves(healthy) for line in each.lines), "it has none"


def test_a_run_of_another_recipe_or_of_no_settings_stands_alone(healthy):
    healthy.settings["distill"]["regression_steps"] += 1
    assert not any(line.behind for each in curves(healthy) for line in each.lines)
    healthy.settings = None
    assert not any(line.behind for each in curves(healthy) for line in each.lines)
