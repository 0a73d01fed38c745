"""What is added from outside, by one setting, works in the real jobs and in their workers."""

import json

import pytest
from diffusers import DiffusionPipeline

from pipeline.config import S3Config
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Storage
from tests.cluster.job import ROOT, Job
from tests.extension.test_family import AURAFLOW

TOYS = ("family", "term", "hook", "metric", "store", "solver")


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_six_additions_go_through_pairs_distill_export_and_evaluate(tmp_path):
    AURAFLOW.save(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    settings = {
        "plugins": [f"tests.extension.toy_{toy}" for toy in TOYS],
        "run": str(tmp_path / "run"),
        "data": {"name": None},
        "teacher": {
            "output": str(tmp_path / "teacher"),
            "prompts": str(tmp_path / "prompts.txt"),
        },
        "pairs": {
            "output": "toy://bucket/pairs",
            **{"count": 8, "shard_size": 8, "batch_size": 8, "solver": "halves", "steps": 2},
            "actors": {"max": 1},
        },
        "distill": {
            "output": "toy://bucket/distill",
            **{"steps": 3, "regression_steps": 1, "burn_in_steps": 1, "lanes": 1},
            **{"batch_size": 2, "regression": {"batch_size": 2}, "log_every": 1},
            "workers": {"max": 1},
            "terms": {"zero_mean": {"weight": 0.5}},
        },
        "evaluate": {"count": 10, "batch_size": 10},
    }
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(settings))
    env = {"TOY_STORE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for name in ("pairs", "distill", "export", "evaluate"):
        command = [f"jobs/{name}.py", "--config", str(file)]
        Job(tmp_path / f"{name}.log", command, env).finish()

    bucket = tmp_path / "bucket"
    manifest = read_manifest(Storage(str(bucket / "pairs"), S3Config(), "pairs.output"))
    assert manifest.count == 8 and manifest.plan.solver == "halves"
    lines = (bucket / "distill" / "metrics.jsonl").read_text().splitlines()
    assert ["zero_mean" in json.loads(line) for line in lines] == [False, False, True]
    assert (tmp_path / "student_steps.txt").read_text() == "1 3"
    student = DiffusionPipeline.from_pretrained(tmp_path / "run" / "export")
    assert type(student).__name__ == "AuraFlowPipeline"
    evaluation = (tmp_path / "run" / "evaluation.json").read_text()
    assert '"mean_gap"' in evaluation
