"""Recipes of large models: the memory that their files tell is that of their shapes."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.cli import load
from pipeline.cluster.doctor import CONTEXT, GIB
from pipeline.training.memory import footprint
from tests.fixtures.released import RELEASED


def comment_of(name: str) -> str:
    lines = Path(f"configs/{name}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ").rstrip("\\") for line in lines if line.startswith("#"))


def test_every_recipe_that_tells_its_memory_has_a_model_here():
    told = {file.stem for file in Path("configs").glob("*.yaml") if "foreseen" in file.read_text()}
    assert told == RELEASED.keys()


@pytest.mark.parametrize("name", RELEASED)
def test_memory_is_what_is_foreseen(name, tmp_path):
    """With adapters, all weights (flags in the file's comment), a base in fewer bits; to 5%."""
    comment = comment_of(name)
    told = [float(each) for each in re.findall(r"([\d.]+) GiB on each", comment)]
    rounded = {how: float(each) for how, each in re.findall(r"(int8|nf4) ([\d.]+) GiB", comment)}
    flags = [part for pair in re.findall(r"(--[\w.]+) +(\S+)", comment) for part in pair]
    plain = ["--config", f"configs/{name}.yaml", "--run", str(tmp_path)]
    quantized = [["--distill.quantize", how] for how in rounded]
    adapted, full, *fewer = (load("", [*plain, *more])[0] for more in ([], flags, *quantized))
    assert adapted.distill.student.lora.rank and adapted.distill.critic.lora.rank
    assert full.distill.student.lora.rank is None and full.distill.critic.lora.rank is None
    teacher = RELEASED[name].teacher(adapted.teacher)
    with torch.device("meta"):
        counted = [
            footprint(each, teacher, each.distill.workers.min) for each in (adapted, full, *fewer)
        ]
    assert [*told, *rounded.values()] == pytest.approx(
        [(each.total + CONTEXT) / GIB for each in counted], rel=0.05
    )
