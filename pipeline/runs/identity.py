"""What defines a run: two runs of one definition are one run, and give the same bits."""

import re
from typing import Any

from pipeline.config import Config, DataConfig, DistillConfig
from pipeline.data.images import folder_digest
from pipeline.data.plans import ConditionPlan, RealPlan
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Storage
from pipeline.methods.recipe import Recipe
from pipeline.models.loading import teacher_fingerprint
from pipeline.models.perceptual.distance import distance_fingerprint
from pipeline.runs.init_from import InitFrom
from pipeline.runs.pairs import RunPairs

# Folders, workers, cadences and kernels do not change the optimisation, nor does a later end.
_FREE = {
    *(
        "output",
        "workers",
        "log_every",
        "sample_every",
        "sample_prompts",
        "checkpoint_every",
        "keep",
        "steps",
    ),
    *("bad_steps", "sharded", "shard_teacher", "recompute", "start_from", "start_weights"),
    *("scoring", "pick", "wandb", "compile", "attention", "on_failure"),
    "conditions",  # stored ones stand in a definition as what they are
}
_FREE_OF_REGRESSION = {"distance", "lpips", "decoder", "cache"}
"""`distance_fingerprint` says what these come to."""
OF_WEIGHTS = re.compile(r"teacher|start|network\..*|distill\.(student|critic)\.lora\..*")
"""What in a definition says which weights fit: `start_from` takes them from no run of another."""


def inputs(distill: DistillConfig) -> tuple[str, ...]:
    """Branches of the settings whose folders a run reads itself."""
    return ("teacher", "data") if distill.gan.real == "data" else ("teacher",)


def seen(distill: DistillConfig, data: DataConfig) -> dict[str, str]:
    """Digest of the real images in a local `data.folder`, where a GAN sees them.

    A definition has their name alone, as those of older runs.

    Raises:
        UserError: As `load_images`.
    """
    folder = data.folder if "data" in inputs(distill) else None
    return {"data.folder": folder_digest(folder)} if folder else {}


def definition(config: Config) -> dict[str, Any]:
    """All that defines the optimisation, checked: networks, pairs, losses, optimisers, seed.

    Args:
        config: Of the run, with its inputs here.

    Raises:
        UserError: If the teacher, the pairs, the weights or decoder of the distance, or the weights
            in `distill.start_from` are missing or cannot be read; the pairs are of another
            teacher; or a set of pairs, real images or conditions is not complete.
    """
    distill, credentials = config.distill, config.s3
    teacher = teacher_fingerprint(config.teacher)
    pairs: dict[str, Any] | None = None
    distance = {}
    if Recipe.of(config.distill).needs.pairs:
        manifest = RunPairs(config.pairs.output, distill.output, credentials).manifest
        manifest.check_teacher(teacher)
        pairs = {"plan": manifest.plan.fingerprint(), "count": manifest.count}
        if manifest.plan.precision != "fp32":
            pairs["precision"] = manifest.plan.precision
        distance = distance_fingerprint(distill.regression)
    start, real, buckets = None, {}, {}
    if len(config.teacher.buckets) > 1:
        buckets = {"buckets": [each.model_dump(mode="json") for each in config.teacher.buckets]}
    if distill.start_from:
        start = InitFrom(distill, config.teacher, credentials).fingerprint()
    if distill.gan.real == "data":
        real = {"real": config.data.model_dump(mode="json", exclude={"folder"})}
    if distill.gan.real == "encoded":
        encoded = Storage(config.encode.output, credentials, "encode.output")
        images = read_manifest(encoded, RealPlan)
        real = {"real": {"plan": images.plan.fingerprint(), "count": images.count}}
    conditions = {}
    if distill.conditions == "stored":
        embedded = Storage(config.embed.output, credentials, "embed.output")
        stored = read_manifest(embedded, ConditionPlan)
        conditions = {"conditions": {"plan": stored.plan.fingerprint(), "count": stored.count}}
    return {
        "seed": config.seed,
        "teacher": teacher,
        "pairs": pairs,
        "start": start,
        "guidance": config.pairs.guidance,
        **config.pairs.guided.beyond_scale,
        "network": config.network.model_dump(mode="json"),
        "distill": distill.model_dump(mode="json", exclude=_left_out(distill)),
        **distance,
        **real,
        **buckets,
        **conditions,
    }


def _left_out(distill: DistillConfig) -> dict[str, Any]:
    """Settings that do not change the optimisation; new ones while they are off: old runs go on."""
    free = dict[str, Any].fromkeys(_FREE, True) | {"regression": _FREE_OF_REGRESSION}
    free |= {name: True for name in ("terms", "quantize") if not getattr(distill, name)}
    if not distill.augmentation.weight:
        free["augmentation"] = True
    if distill.student.levels == "all":
        free["student"] = {"levels"}
    if distill.gan.heads == "learnt":
        free["gan"] = {"heads"}
    if distill.critic.ida == 1:
        free["critic"] = {"ida"}
    return free
