"""Settings that must agree with one another, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.utils.uris import is_remote

if TYPE_CHECKING:
    from pipeline.config import Config


def problems(config: Config) -> Iterator[str]:
    """Every disagreement, as a line that begins with the setting and ends with the way out."""
    yield from _network_problems(config)
    yield from _count_problems(config)
    yield from _distill_problems(config)
    yield from _evaluate_problems(config)
    yield from _folder_problems(config)


def _network_problems(config: Config) -> Iterator[str]:
    network, levels = config.network, len(config.network.channels)
    if len(network.attention) != levels:
        yield (
            f"network.attention: {len(network.attention)} values for the {levels} levels of "
            "network.channels; give one per level"
        )
    for channels in network.channels:
        if channels % network.norm_groups:
            yield (
                f"network.channels: {channels} is not a multiple of network.norm_groups "
                f"({network.norm_groups})"
            )
        elif channels == network.norm_groups:
            yield (
                f"network.norm_groups: {network.norm_groups} gives each of {channels} channels a "
                "norm of its own, which takes time and class out of it; use fewer"
            )
    place = "teacher.gaussian.shape" if config.teacher.kind == "gaussian" else "data.size"
    for size in config.shape[1:]:
        if size % 2 ** (levels - 1):
            yield (
                f"{place}: {size} is not a multiple of {2 ** (levels - 1)}, "
                f"as the {levels} levels of network.channels need"
            )
    teacher = config.teacher
    if teacher.kind == "gaussian" and teacher.file is not None:
        yield f"teacher.file: {teacher.file} needs teacher.kind diffusers; a gaussian reads none"
    for name in ("student", "critic"):
        rank = getattr(config.distill, name).lora.rank
        if teacher.kind == "gaussian" and rank is not None:
            yield (
                f"distill.{name}.lora.rank: {rank} needs teacher.kind diffusers; a gaussian has no "
                "weights to adapt"
            )


def _count_problems(config: Config) -> Iterator[str]:
    pairs, encode, distill = config.pairs, config.encode, config.distill
    actors = config.evaluate.actors
    if pairs.count % pairs.shard_size:
        below = pairs.count // pairs.shard_size * pairs.shard_size
        nearest = f"{below} or {below + pairs.shard_size}" if below else f"{pairs.shard_size}"
        yield (
            f"pairs.count: {pairs.count} is not a multiple of pairs.shard_size "
            f"({pairs.shard_size}); use {nearest}"
        )
    if pairs.weights is not None and not any(pairs.weights):
        yield "pairs.weights: at least one class must have a weight above 0"
    for name, low, limit, high in (
        ("pairs.actors.min", pairs.actors.min, "pairs.actors.max", pairs.actors.max),
        ("encode.actors.min", encode.actors.min, "encode.actors.max", encode.actors.max),
        ("evaluate.actors.min", actors.min, "evaluate.actors.max", actors.max or actors.min),
        ("distill.workers.min", distill.workers.min, "distill.workers.max", distill.workers.max),
        ("distill.workers.max", distill.workers.max, "distill.lanes", distill.lanes),
        (
            "distill.regression_steps + distill.burn_in_steps",
            distill.regression_steps + distill.burn_in_steps,
            "distill.steps",
            distill.steps,
        ),
    ):
        if low > high:
            yield f"{name}: {low} is more than {limit} ({high})"


def _evaluate_problems(config: Config) -> Iterator[str]:
    evaluate = config.evaluate
    if evaluate.weights is not None and evaluate.features == "classifier":
        yield (
            f"evaluate.weights: {evaluate.weights} is of no use to a classifier, which learns from "
            "data.name; set evaluate.features"
        )
    if evaluate.reference and config.data.name and config.teacher.kind != "gaussian":
        yield (
            f"evaluate.reference: {evaluate.reference}, but data.name {config.data.name} names the "
            "real images already; set data.name to null"
        )


def _distill_problems(config: Config) -> Iterator[str]:
    distill = config.distill
    for name, size in (
        ("distill.batch_size", distill.batch_size),
        ("distill.regression.batch_size", distill.regression.batch_size),
    ):
        if size % distill.lanes:
            yield f"{name}: {size} is not a multiple of distill.lanes ({distill.lanes})"
    if distill.pick == "best" and not distill.scoring.count:
        yield "distill.pick: best needs scores; set distill.scoring.count to 2000, say"
    if distill.shard_teacher and not distill.sharded:
        yield "distill.shard_teacher: true needs distill.sharded true"
    if (regression := distill.regression).distance != "lpips":
        for name in ("lpips", "decoder"):
            if getattr(regression, name) is not None:
                yield (
                    f"distill.regression.{name}: {getattr(regression, name)} needs "
                    "distill.regression.distance lpips"
                )
    gan = distill.gan
    if gan.real == "data" and (config.data.name is None or config.teacher.kind == "gaussian"):
        yield (
            "distill.gan.real: data needs data.name, and a teacher that learnt from it; use "
            "encoded (jobs/encode.py) or pairs"
        )
    if gan.divergence != "reverse-kl" and (gan.real is None or distill.draws != "shared"):
        yield (
            f"distill.gan.divergence: {gan.divergence} weighs the matching loss by the logits of "
            "the same draws; it needs distill.gan.real, and distill.draws shared"
        )
    if distill.draws == "shared" and distill.regression.weight:
        if distill.regression.batch_size > distill.batch_size:
            yield (
                f"distill.regression.batch_size: {distill.regression.batch_size} is more than "
                f"distill.batch_size ({distill.batch_size}), of which it is a part with "
                "distill.draws shared"
            )
        if len(distill.student.times or (0,)) > 1:
            yield (
                "distill.draws: shared needs a student of one step where there is a regression; "
                "use separate, or set distill.regression.weight to 0"
            )
    if distill.optimizer == "adamw8bit" and distill.sharded:
        yield (
            "distill.optimizer: adamw8bit cannot be split over workers; use adamw with "
            "distill.sharded"
        )


_WORKING_DIR = "/runtime_resources/working_dir_files/"
"""In the path of the copy of the working directory that Ray makes for a submitted job."""


def _folder_problems(config: Config) -> Iterator[str]:
    folders = {"run": config.run}
    for branch in ("teacher", "pairs", "encode", "distill", "export", "evaluate", "sample"):
        folders[f"{branch}.output"] = getattr(config, branch).output
    for setting, folder in folders.items():
        if _WORKING_DIR in folder:
            yield (
                f"{setting}: {folder} would be lost with this job's copy of the working directory; "
                "give an absolute path that all nodes share"
                + (
                    ", or s3://bucket/prefix"
                    if setting.split(".")[0] in ("pairs", "encode", "distill", "export")
                    else ""
                )
            )
    for branch, name in (("encode", "source"), ("evaluate", "reference")):
        source, output = getattr(getattr(config, branch), name), folders[f"{branch}.output"]
        if source and f"{output}/".startswith(f"{source.rstrip('/')}/"):
            place = f"{branch}.{name} ({source})"
            yield f"{branch}.output: {output} is in {place}; choose another folder"
    if (push := config.export.push) and not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        yield f"export.push: {push!r} is no repository of the Hub; give owner/name"
    for name in ("evaluate", "sample", "report"):
        if is_remote(folder := getattr(config, name).output or ""):
            yield (
                f"{name}.output: {folder!r} is no local folder; only those of pairs, "
                "encode, distill and export may be in a bucket"
            )
