"""FLOPs of a step are those that PyTorch counts, and their rate and share are in the log."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from pipeline.models.loading import load_teacher
from pipeline.runs.run import Run
from pipeline.training import build, flops, loop
from pipeline.training.attention import one_kernel
from pipeline.training.peaks import PEAKS, peak

GAN = {"gan": {"real": "pairs", "student_weight": 0.1, "smoothness": 0.1}}
FEW = {"student": {"times": [80.0, 2.0, 0.5], "every": 2}, "regression": {"weight": 0}}
RECIPES = {
    "plain": {},
    "recompute": {"recompute": True},
    "gan": GAN,
    "gan-shared": {**GAN, "draws": "shared"},
    "gan-recompute": {**GAN, "recompute": True},
    "few-steps": {**FEW, "gan": GAN["gan"]},
    "sid": {"matching": {"loss": "sid"}},
}


ATEN = torch.ops.aten
ON_CPU = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}
"""Attention's kernels on the CPU, which PyTorch's counter does not know."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_takes_what_torch_counts(name, tiny_run):
    training = build.prepare(tiny_run(**RECIPES[name]))
    for step in (0, 4, 6, 7, 8, 9):
        microbatches = training.microbatches(step)
        with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            training.step(step, microbatches)
        assert training.flops(step) == pytest.approx(counter.get_total_flops(), rel=0.01), step
