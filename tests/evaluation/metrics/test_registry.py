"""A new metric is one file and one line: it stands in `evaluation.json` of the real job."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.config import Config
from pipeline.evaluation import speed
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.metrics.metric import Estimate, Estimates, Metric, TwoSets
from pipeline.evaluation.metrics.registry import METRICS
from pipeline.models.families.gaussian import gaussian_teacher
from pipeline.report.comparisons import comparisons
from pipeline.stages import evaluate


def of_two_sets(sets: TwoSets) -> Estimates:
    """How far the means are apart, without an interval."""
    apart = sets.reference.moments.mean - sets.other.moments.mean
    return {"mean_distance": Estimate(float(apart.norm()))}


def of_one_set(sets: TwoSets) -> Estimates:
    """Variance of all features, with an interval."""
    deviations = sets.other.kept - sets.other.kept.mean(0)
    return {"variance": bootstrap.mean(deviations.square().mean(1))}


def test_a_registered_metric_stands_in_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "toy of two sets", Metric(of_two_sets, needs="moments"))
    monkeypatch.setitem(
        METRICS, "toy of one set", Metric(of_one_set, needs="features", packages=("torch",))
    )
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    monkeypatch.setattr(speed, "_LONGEST", 0.02)
    student = gaussian_teacher((1, 8, 8), 10)
    monkeypatch.setattr(evaluate, "load_student", lambda *_: student)
    tree = {
        "run": str(tmp_path),
        "data": {"name": None},
        "teacher": {"kind": "gaussian"},
        "pairs": {"steps": 2},
        "evaluate": {"count": 100, "student": "s"},
    }
    evaluate.evaluate(Config.model_validate(tree))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    (comparison,) = found["metrics"]["comparisons"]
    distance, variance = (comparison["figures"][name] for name in ("mean_distance", "variance"))
    assert distance["student"]["value"] > 0 and distance["student"]["low"] is None
    student, floor = variance["student"], variance["floor"]
    assert student["value"] < floor["value"], "one step gives the means of the classes"
    assert floor["low"] < floor["value"] < floor["high"]
    assert variance["library"] == f"torch {torch.__version__}"
    table, *_ = comparisons(found)
    assert {"mean_distance", "variance"} < {name for name, _ in table.rows}, "the report too"
