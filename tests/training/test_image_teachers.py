"""Teachers on images that diffusers saved: each is learnt from, and its student opens there."""

import json
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from pipeline.config import Config
from pipeline.models.loading import load_teacher
from pipeline.models.students import load_student
from pipeline.runs.run import Run
from pipeline.training import loop
from tests.fixtures.in_process import make_pairs
from tests.fixtures.tiny_unets import UNETS, save_unet


@pytest.mark.parametrize("kind", UNETS)
def test_a_student_learns_and_opens_in_diffusers(tmp_path, kind):
    config = Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": {"output": str(save_unet(tmp_path / "model", kind))},
            "pairs": {"count": 6, "shard_size": 6, "solver": "euler", "steps": 3},
            "distill": {
                **{"steps": 4, "regression_steps": 1, "burn_in_steps": 1, "batch_size": 4},
                **{"regression": {"batch_size": 4}, "gan": {"real": "pairs"}},
                **{"checkpoint_every": 2, "sample_every": 4, "log_every": 2},
            },
        }
    )
    make_pairs(config)
    Run(config).claim()
    assert loop.train(config) == 4
    Run(config).finish()
    output = Path(config.distill.output)
    figures = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert {"regression", "matching_gradient", "gan_student", "critic"} <= figures[-1].keys()
    student, teacher = load_student(output / "student"), load_teacher(config.teacher)
    pairs = zip(student.parameters(), teacher.parameters(), strict=True)
    changed = [bool((ours != theirs).any()) for ours, theirs in pairs]
    assert sum(changed) > 0.9 * len(changed), "all of it learns"
    pipe = DiffusionPipeline.from_pretrained(output / "student")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(num_inference_steps=1).images[0].size == (8, 8)
