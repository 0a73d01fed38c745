"""What a run comes to, from its settings alone."""

import json
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.diffusion.solver import SOLVERS
from pipeline.methods.recipe import Recipe
from pipeline.methods.terms.term import NetworkCalls


def teacher_calls(config: Config) -> int:
    """Network evaluations of one pair; guidance takes two at every step."""
    pairs = config.pairs
    return SOLVERS[pairs.solver].evaluations(pairs.steps) * (1 if pairs.guidance == 1 else 2)


def pair_bytes(config: Config, shape: tuple[int, int, int]) -> int:
    """Of one stored pair: noise and image in fp16, id and label."""
    channels, height, width = shape
    return 2 * 2 * channels * height * width + 8 + 8


def _shape(config: Config) -> tuple[int, int, int] | None:
    """Of the teacher that is there already, or else of the one the settings describe, if any."""
    teacher = config.teacher
    described = teacher.kind == "gaussian" or (config.data.name and not teacher.file)
    try:
        unet = json.loads((Path(config.teacher.output) / "unet" / "config.json").read_text())
        height, width = np.broadcast_to(unet["sample_size"], 2).tolist()
        return unet["in_channels"], height, width
    except (OSError, ValueError, KeyError):
        return config.shape if described else None


def training_calls(config: Config) -> NetworkCalls:
    """Images through the networks in all of training."""
    guided = 1 if config.pairs.guidance == 1 else 2
    return Recipe.of(config.distill).network_calls(guided)


def plan(config: Config) -> list[str]:
    """Say what a run of all jobs comes to, in a few lines."""
    pairs, distill = config.pairs, config.distill
    calls = teacher_calls(config)
    first, burn_in = distill.regression_steps, distill.burn_in_steps
    dmd = distill.steps - first - burn_in
    teacher, size, shape = config.teacher.output, "", _shape(config)
    if config.teacher.kind == "gaussian":
        teacher = "analytic"
    elif config.teacher.file:
        teacher = f"read from {config.teacher.file}"
    elif config.data.name:
        teacher = f"{config.teacher.training.steps} training steps"
    against = f", against {config.evaluate.reference}" if config.evaluate.reference else ""
    if shape:
        size = f", {pairs.count * pair_bytes(config, shape)} bytes on disk before compression"
    return [
        f"teacher: {teacher}",
        f"pairs: {pairs.count} pairs in {pairs.count // pairs.shard_size} shards{size}",
        f"pairs: {calls} teacher evaluations per pair ({pairs.solver}, {pairs.steps} steps), "
        f"{calls * pairs.count} in all",
        *([f"encode: images of {config.encode.source}"] if config.encode.source else []),
        f"distill: {distill.steps} steps: {first} regression, {burn_in} critic burn-in, "
        f"{dmd} DMD with {dmd // distill.student.every} student steps",
        f"evaluate: {config.evaluate.count} images per network{against}",
    ]
