"""Recipes of large models under flags: the memory that is told of them is that of their shapes."""

import re
from dataclasses import replace
from functools import partial
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


PAGES = {"sdxl": 9, "qwen-image": 7, "wan": 10}
"""Pages with a table of memory, and its rows."""


def rows():
    """Of the pages: GPUs, recipe, flags, GiB; all but the first are long."""
    found = []
    for name, count in PAGES.items():
        page = (Path(__file__).parents[2] / "docs" / f"{name}.md").read_text()
        every = "".join(re.findall(r'^all="([^"]*)"', page, re.MULTILINE))
        row = r"^\| (\d+) \| `([\w-]+)` \|([^|]*)\| ([\d.]+) \|"
        told = re.findall(row, page.replace("$all", every.replace("\n", "")), re.MULTILINE)
        assert len(told) == count
        found += told
    return [pytest.param(*row, marks=[pytest.mark.prove] * bool(n)) for n, row in enumerate(found)]


@pytest.mark.parametrize(("gpus", "name", "flags", "told"), rows())
def test_memory_is_what_the_pages_say(gpus, name, flags, told, tmp_path):
    plain = ["--config", f"configs/{name}.yaml", "--run", str(tmp_path)]
    config = load([*plain, *flags.replace("`", "").split()])
    assert config.distill.workers.min == (int(gpus) if config.distill.sharded else 1)
    released = RELEASED[Path(config.teacher.output).name]
    if config.distill.conditions == "stored":
        released = replace(released, make=partial(without_encoder, released.make))
    teacher = released.teacher(config.teacher)
    with torch.device("meta"):
        counted = footprint(config, teacher, config.distill.workers.min)
    assert (counted.total + CONTEXT) / GIB == pytest.approx(float(told), rel=0.02)


def without_encoder(make):
    """A pipeline as workers have it that read stored conditions."""
    pipe = make()
    pipe.register_modules(text_encoder=None)
    return pipe
