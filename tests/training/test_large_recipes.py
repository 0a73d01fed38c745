"""Recipes of large models: the memory that their files tell is that of their shapes."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.cli import load
from pipeline.models.quantized import FORMATS
from pipeline.training.memory import CONTEXT, GIB, footprint
from tests.fixtures.released import RELEASED, SDXL


def comment_of(name: str) -> str:
    lines = Path(f"configs/{name}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ").rstrip("\\") for line in lines if line.startswith("#"))


def test_every_recipe_that_tells_its_memory_has_a_model_here():
    told = {file.stem for file in Path("configs").glob("*.yaml") if "foreseen" in file.read_text()}
    assert told == RELEASED.keys()


@pytest.mark.parametrize("name", RELEASED)
def test_memory_is_what_is_foreseen(name, tmp_path):
    """With adapters, and for all weights with the flags in the file's comment; to 5%."""
    comment = comment_of(name)
    told = [float(each) for each in re.findall(r"([\d.]+) GiB on each", comment)]
    flags = [part for pair in re.findall(r"(--[\w.]+) +(\S+)", comment) for part in pair]
    plain = ["--config", f"configs/{name}.yaml", "--run", str(tmp_path)]
    adapted, full = (load([*plain, *more]) for more in ([], flags))
    assert adapted.distill.student.lora.rank and adapted.distill.critic.lora.rank
    assert full.distill.student.lora.rank is None and full.distill.critic.lora.rank is None
    teacher = RELEASED[name].teacher(adapted.teacher)
    with torch.device("meta"):
        counted = [footprint(each, teacher, each.distill.workers.min) for each in (adapted, full)]
    assert told == pytest.approx([(each.total + CONTEXT) / GIB for each in counted], rel=0.05)


@pytest.mark.parametrize("how", FORMATS)
def test_memory_over_a_base_in_fewer_bits_is_what_is_foreseen(how, tmp_path):
    name = "qwen-image-4-step"
    (told,) = re.findall(rf"{how} ([\d.]+) GiB", comment_of(name))
    plain = ["--config", f"configs/{name}.yaml", "--run", str(tmp_path)]
    config = load([*plain, "--distill.quantize", how])
    teacher = RELEASED[name].teacher(config.teacher)
    with torch.device("meta"):
        counted = footprint(config, teacher)
    assert float(told) == pytest.approx((counted.total + CONTEXT) / GIB, rel=0.05)


def rows_of_sdxl():
    """Of docs/sdxl.md: GPUs, recipe, flags, GiB; all but the first are long."""
    page = (Path(__file__).parents[2] / "docs" / "sdxl.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([\w-]+)` \|([^|]*)\| ([\d.]+) \|", page, re.MULTILINE)
    assert len(rows) == 9
    return [
        pytest.param(*row, marks=[pytest.mark.prove] * bool(place))
        for place, row in enumerate(rows)
    ]


@pytest.mark.parametrize(("gpus", "name", "flags", "told"), rows_of_sdxl())
def test_memory_of_sdxl_is_what_its_page_says(gpus, name, flags, told, tmp_path):
    plain = ["--config", f"configs/{name}.yaml", "--run", str(tmp_path)]
    config = load([*plain, *flags.strip(" `").split()])
    assert config.distill.workers.min == (int(gpus) if config.distill.sharded else 1)
    teacher = SDXL.teacher(config.teacher)
    with torch.device("meta"):
        counted = footprint(config, teacher, config.distill.workers.min)
    assert (counted.total + CONTEXT) / GIB == pytest.approx(float(told), rel=0.02)
