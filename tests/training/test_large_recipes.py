"""Recipes of large models under flags: the memory that is told of them is that of their shapes."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.cli import load
from pipeline.models.quantized import FORMATS
from pipeline.models.released import RELEASED
from pipeline.training.memory import CONTEXT, GIB, footprint


@pytest.mark.parametrize("how", FORMATS)
def test_memory_over_a_base_in_fewer_bits_is_what_is_foreseen(how, tmp_path):
    name = "qwen-image-4-step"
    (told,) = re.findall(rf"{how} ([\d.]+) GiB", Path(f"configs/{name}.yaml").read_text())
    plain = ["--config", f"configs/{name}.yaml", "--run", str(tmp_path)]
    config = load([*plain, "--distill.quantize", how])
    teacher = RELEASED["Qwen-Image"].teacher(config.teacher)
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
    teacher = RELEASED["stable-diffusion-xl-base-1.0"].teacher(config.teacher)
    with torch.device("meta"):
        counted = footprint(config, teacher, config.distill.workers.min)
    assert (counted.total + CONTEXT) / GIB == pytest.approx(float(told), rel=0.02)
