"""A teacher of text by two workers of Ray Train: killed in both phases, it ends with equal bits."""

from pathlib import Path

import pytest

from pipeline.models.loading import load_teacher
from pipeline.stages.icons import make_icons
from tests.fixtures.icons import configured

pytestmark = [pytest.mark.cluster, pytest.mark.prove, pytest.mark.timeout(1800)]


def weights(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.safetensors")}


def test_killed_in_both_phases_it_ends_with_the_same_bits(start, tmp_path):
    config = configured(tmp_path / "run")
    make_icons(config)
    tree = config.model_dump_json()
    (tmp_path / "config.yaml").write_text(tree)
    steps = ["--teacher.training.steps", "60", "--teacher.training.text.autoencoder.steps", "60"]
    job = ["jobs/teacher.py", "--config", str(tmp_path / "config.yaml"), *steps]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start(*job, "--teacher.output", str(whole)).finish(seconds=600)
    for state in ("autoencoder.pt", "teacher.pt"):
        killed = start(*job, "--teacher.output", str(broken))
        file = tmp_path / "broken.training" / state
        killed.wait_for(file.is_file, 600)
        killed.kill()
        assert not (broken / "model_index.json").exists(), "killed in the middle"
    lines = start(*job, "--teacher.output", str(broken)).finish(seconds=600)
    assert any("saved" in line for line in lines)
    assert weights(broken) == weights(whole)
    teacher = config.teacher.model_copy(update={"output": str(whole), "prompts": None})
    assert load_teacher(teacher).latents is not None
