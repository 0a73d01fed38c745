"""What a run comes to, from its settings alone."""

from math import prod
from pathlib import Path

from pydantic_core import from_json

from pipeline.config import Config, DistillConfig, EmbedConfig, PairsConfig, TeacherConfig
from pipeline.diffusion.buckets import Buckets
from pipeline.diffusion.solver import SOLVERS
from pipeline.methods.recipe import Recipe
from pipeline.methods.terms.term import NetworkCalls
from pipeline.models.folder import INDEX
from pipeline.utils.uris import is_remote


def teacher_calls(pairs: PairsConfig) -> int:
    """Network evaluations of one pair, at most; guidance takes two at every step that has it."""
    return SOLVERS[pairs.solver].evaluations(pairs.steps) * (1 if pairs.guidance == 1 else 2)


def pair_bytes(shape: tuple[int, ...]) -> int:
    """Of one stored pair: noise and image in fp16, id and label."""
    return 2 * 2 * prod(shape) + 8 + 8


def set_bytes(count: int, buckets: Buckets) -> int:
    """Of so many pairs, in the shares of their buckets."""
    parts = zip(buckets.shapes, buckets.weights, strict=True)
    return count * sum(pair_bytes(shape) * w for shape, w in parts) // sum(buckets.weights)


def _stored_shape(teacher: TeacherConfig) -> tuple[int, ...] | None:
    """Of the teacher that is there already, if there is one."""
    try:
        unet = from_json((Path(teacher.output) / "unet" / "config.json").read_text())
    except (OSError, ValueError):
        return None
    match unet:
        case {"in_channels": int(channels), "sample_size": int(side)}:
            return channels, side, side
        case {"in_channels": int(channels), "sample_size": [int(height), int(width)]}:
            return channels, height, width
    return None


def guidance_hints(teacher: TeacherConfig, guidance: float) -> list[str]:
    """A line where prompts steer a teacher at no guidance, which its pipeline does not do.

    Raises:
        UserError: If the teacher's folder cannot be read.
    """
    if guidance != 1 or teacher.kind != "diffusers":
        return []
    from pipeline.models.encoders import own_guidance  # diffusers: takes seconds

    if (own := own_guidance(teacher)) == 1:
        return []
    return [
        f"pairs.guidance is 1, so the teacher follows its prompts loosely: its pipeline has a "
        f"guidance_scale of {own:g} where it is told none; set pairs.guidance, unless this model "
        "was distilled with guidance"
    ]


def training_calls(distill: DistillConfig, guidance: float) -> NetworkCalls:
    """Images through the networks in all of training, under a scale of guidance."""
    return Recipe.of(distill).network_calls(1 if guidance == 1 else 2)


def _conditions(embed: EmbedConfig) -> list[str]:
    """Of a run that reads stored ones; of those in a bucket it is not asked whether they exist."""
    there = is_remote(embed.output) or any(Path(embed.output).glob("manifest-*.json"))
    missing = "" if there else ", which is not there yet: run jobs/embed.py"
    return [f"embed: conditions of all prompts in {embed.output}{missing}"]


def plan(config: Config) -> list[str]:
    """Say what a run of all jobs comes to, in a few lines."""
    pairs, distill = config.pairs, config.distill
    calls = teacher_calls(pairs)
    most = "at most " if pairs.guidance_until < 1 else ""
    first, burn_in = distill.regression_steps, distill.burn_in_steps
    dmd = distill.steps - first - burn_in
    described = config.teacher.kind == "gaussian" or (config.data.name and not config.teacher.file)
    shape = _stored_shape(config.teacher) or (config.shape if described else None)
    teacher, size = config.teacher.output, ""
    if config.teacher.kind == "gaussian":
        teacher = "analytic"
    elif config.teacher.file:
        teacher = f"read from {config.teacher.file}"
    elif config.data.name:
        teacher = f"{config.teacher.training.steps} training steps"
    against = f", against {config.evaluate.reference}" if config.evaluate.reference else ""
    there = (Path(config.teacher.output) / INDEX).is_file()
    every = sum(bucket.weight for bucket in config.teacher.buckets)
    shares = (f"{'x'.join(map(str, b.size))} ({b.weight})" for b in config.teacher.buckets)
    if shape:
        size = f", {pairs.count * pair_bytes(shape)} bytes on disk before compression"
    return [
        f"teacher: {teacher}",
        *([f"buckets: of {every} microbatches {', '.join(shares)}"] if every else []),
        f"pairs: {pairs.count} pairs in {pairs.count // pairs.shard_size} shards{size}",
        f"pairs: {most}{calls} teacher evaluations per pair ({pairs.solver}, {pairs.steps} steps, "
        f"{pairs.precision}), {calls * pairs.count} in all",
        *([f"encode: images of {config.encode.source}"] if config.encode.source else []),
        *(_conditions(config.embed) if distill.conditions == "stored" else []),
        f"distill: {distill.steps} steps: {first} regression, {burn_in} critic burn-in, "
        f"{dmd} DMD with {dmd // distill.student.every} student steps",
        f"evaluate: {config.evaluate.count} images per network{against}",
        *(guidance_hints(config.teacher, pairs.guidance) if there else []),
    ]
