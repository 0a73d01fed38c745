"""Settings that must agree with one another, checked before anything starts."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.config.distill import DistillConfig
from pipeline.config.networks import DataConfig, NetworkConfig, TeacherConfig
from pipeline.config.results import EvaluateConfig
from pipeline.config.sets import ActorsConfig, PairsConfig
from pipeline.utils.uris import is_remote, masked

Problems = Iterator[str]
"""Lines that begin with the setting and end with the way out."""


def multiple_problems(name: str, value: int, of: int, unit: str) -> Problems:
    """A number that must be a multiple of another, which `unit` names."""
    if value % of:
        below = value // of * of
        nearest = f"{below} or {below + of}" if below else f"{of}"
        yield f"{name}: {value} is not a multiple of {unit}; use {nearest}"


def credential_problems(tree: Any, setting: str = "") -> Problems:
    """Texts of a tree that are URIs with credentials: settings are stored, shown and sent."""
    if isinstance(tree, Mapping | BaseModel):
        for name, value in dict(tree).items():
            yield from credential_problems(value, f"{setting}.{name}" if setting else f"{name}")
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from credential_problems(value, setting)
    elif isinstance(tree, str):
        uri = tree if is_remote(tree) or setting != "s3.endpoint" else f"http://{tree}"
        if is_remote(uri) and masked(uri) != uri:
            yield (
                f"{setting}: has credentials in it, and settings are written into files that "
                "others read; take them out, and give them by the environment (AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN) or by "
                "s3.profile"
            )


def network_problems(
    network: NetworkConfig, teacher: TeacherConfig, shape: tuple[int, int, int]
) -> Problems:
    """Levels of the network, and images of `shape` that it must halve at each."""
    levels = len(network.channels)
    if len(network.attention) != levels:
        yield (
            f"network.attention: {len(network.attention)} values for the {levels} levels of "
            "network.channels; give one per level"
        )
    for channels in network.channels:
        unit = f"network.norm_groups ({network.norm_groups})"
        yield from multiple_problems("network.channels", channels, network.norm_groups, unit)
        if channels == network.norm_groups:
            yield (
                f"network.norm_groups: {network.norm_groups} gives each of {channels} channels a "
                "norm of its own, which takes time and class out of it; use fewer"
            )
    place = "teacher.gaussian.shape" if teacher.kind == "gaussian" else "data.size"
    for size in shape[1:]:
        unit = f"{2 ** (levels - 1)}, as the {levels} levels of network.channels need"
        yield from multiple_problems(place, size, 2 ** (levels - 1), unit)


def gaussian_problems(teacher: TeacherConfig, distill: DistillConfig) -> Problems:
    """What a teacher without files and weights cannot have."""
    if teacher.kind != "gaussian":
        return
    if teacher.file is not None:
        yield f"teacher.file: {teacher.file} needs teacher.kind diffusers; a gaussian reads none"
    for name, network in (("student", distill.student), ("critic", distill.critic)):
        if network.lora.rank is not None:
            yield (
                f"distill.{name}.lora.rank: {network.lora.rank} needs teacher.kind diffusers; a "
                "gaussian has no weights to adapt"
            )


def size_problems(teacher: TeacherConfig) -> Problems:
    """Several sizes: each once, one of them that of pictures, and a teacher that takes others."""
    sizes = teacher.sizes
    if sizes and teacher.kind == "gaussian":
        yield "teacher.buckets: a gaussian makes images of one shape; give none"
    if len(sizes) > 1 and teacher.prompt_images:
        yield (
            f"teacher.buckets: {len(sizes)} sizes, and images beside prompts "
            "(teacher.prompt_images) are brought to one; give one"
        )
    for number, size in enumerate(sizes):
        if size in sizes[:number]:
            yield (
                f"teacher.buckets: {_listed(size)} stands twice; give each size once, with its "
                "weight"
            )
    if sizes and teacher.image_size not in (None, *sizes):
        yield (
            f"teacher.image_size: {_listed(teacher.image_size)} is none of teacher.buckets, which "
            f"are {', '.join(map(_listed, sizes))}; name one of them, or null for the first"
        )


def _listed(size: int | tuple[int, ...] | None) -> str:
    """A size as it stands in the settings."""
    return str([size, size] if isinstance(size, int) else [*(size or ())])


def pairs_problems(pairs: PairsConfig, teacher: TeacherConfig) -> Problems:
    """The set of pairs: whole shards, guidance, a class to make, and what computes in bf16."""
    yield from multiple_problems(
        "pairs.count", pairs.count, pairs.shard_size, f"pairs.shard_size ({pairs.shard_size})"
    )
    if pairs.guidance == 1:
        for name, value in pairs.guided.beyond_scale.items():
            yield f"pairs.{name}: {value} needs guidance; set pairs.guidance, or take it out"
    if pairs.weights is not None and not any(pairs.weights):
        yield f"pairs.weights: {[*pairs.weights]}, but at least one class needs a weight above 0"
    if pairs.precision == "bf16" and teacher.kind == "gaussian":
        yield "pairs.precision: bf16 needs a network, and teacher.kind gaussian is none; use fp32"
    if pairs.attention != "native" and pairs.precision != "bf16":
        yield f"pairs.attention: {pairs.attention} needs pairs.precision bf16; or use native"


def range_problems(
    makers: Mapping[str, ActorsConfig], distill: DistillConfig, evaluate: EvaluateConfig
) -> Problems:
    """Numbers that must not be more than another; makers are the actors of sets, by branch."""
    actors = evaluate.actors
    for name, low, limit, high in (
        *((f"{n}.actors.min", e.min, f"{n}.actors.max", e.max) for n, e in makers.items()),
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
            yield f"{name}: {low} is more than {limit} ({high}); lower it, or raise {limit}"


def distill_problems(distill: DistillConfig) -> Problems:
    """Batches in microbatches, scores and sharding; the terms have rules of their own."""
    lanes = f"distill.lanes ({distill.lanes})"
    yield from multiple_problems("distill.batch_size", distill.batch_size, distill.lanes, lanes)
    if distill.scoring.count == 1:
        yield "distill.scoring.count: 1 is no set of images; compare 2000, say, or 0 for no scores"
    if distill.pick == "best" and not distill.scoring.count:
        yield "distill.pick: best needs scores; set distill.scoring.count to 2000, say"
    if distill.shard_teacher and not distill.sharded:
        yield "distill.shard_teacher: true needs distill.sharded true"
    if distill.compile not in ("auto", "none") and distill.sharded:
        yield f"distill.compile: {distill.compile} does not go with distill.sharded; use none"
    if distill.attention != "native" and distill.precision != "bf16":
        yield f"distill.attention: {distill.attention} needs distill.precision bf16; or use native"
    if distill.optimizer == "adamw8bit" and distill.sharded:
        yield (
            "distill.optimizer: adamw8bit cannot be split over workers; use adamw with "
            "distill.sharded"
        )
    if distill.quantize is not None:
        yield from _quantize_problems(distill)
    adapted = next((n for n in ("student", "critic") if getattr(distill, n).lora.rank), None)
    if distill.critic.ida < 1 and adapted:
        yield (
            f"distill.critic.ida: {distill.critic.ida:g} mixes weights, and adapters "
            f"(distill.{adapted}.lora.rank) are factors of them; set it to 1"
        )


def _quantize_problems(distill: DistillConfig) -> Problems:
    """Weights in fewer bits are frozen, whole, and those of all networks."""
    for name, network in (("student", distill.student), ("critic", distill.critic)):
        if network.lora.rank is None:
            yield (
                f"distill.quantize: {distill.quantize} is of frozen weights, and the {name} trains "
                f"all of its own; set distill.{name}.lora.rank"
            )
    if distill.sharded:
        yield (
            f"distill.quantize: {distill.quantize} cannot be split over workers; set "
            "distill.sharded to false"
        )


def conditions_problems(distill: DistillConfig, teacher: TeacherConfig) -> Problems:
    """Conditions are stored of prompts alone, and a formula takes none."""
    if distill.sample_prompts and teacher.kind == "gaussian":
        yield (
            "distill.sample_prompts: a gaussian takes no text, it has classes, which the sample "
            "grid shows; leave them out"
        )
    if distill.conditions == "stored" and teacher.kind != "diffusers":
        yield f"distill.conditions: stored needs teacher.kind diffusers, not {teacher.kind}"


def gan_problems(distill: DistillConfig, data: DataConfig, teacher: TeacherConfig) -> Problems:
    """Real images of the GAN that the tree itself describes."""
    if distill.gan.real == "data" and (data.name is None or teacher.kind == "gaussian"):
        yield (
            "distill.gan.real: data needs data.name, and a teacher that learnt from it; use "
            "encoded (jobs/encode.py) or pairs"
        )
    if distill.gan.real == "data" and len(teacher.buckets) > 1:
        yield (
            "distill.gan.real: data are images of one size, and teacher.buckets has "
            f"{len(teacher.buckets)}; use encoded (jobs/encode.py) or pairs"
        )


def evaluate_problems(
    evaluate: EvaluateConfig, data: DataConfig, teacher: TeacherConfig
) -> Problems:
    """A student that is none; real images and features that fit each other."""
    if evaluate.student == teacher.output:
        yield (
            f"evaluate.student: {evaluate.student} is the teacher (teacher.output); name a folder "
            "that jobs/distill.py or jobs/export.py saved"
        )
    if evaluate.weights is not None and evaluate.features == "classifier":
        yield (
            f"evaluate.weights: {evaluate.weights} is of no use to a classifier, which learns from "
            "data.name; set evaluate.features"
        )
    if evaluate.judged and data.name != "captions":
        yield (
            f"evaluate.judged: {', '.join(evaluate.judged)}, but data.name is {data.name}: a judge "
            "learns from images with captions; set it to {}"
        )
    if evaluate.clip and evaluate.scores.get("clip", evaluate.clip) != evaluate.clip:
        yield (
            f"evaluate.clip: {evaluate.clip}, but evaluate.scores has other weights for clip "
            f"({evaluate.scores['clip']}); name one of them"
        )
    if evaluate.guidances and not evaluate.judged:
        yield (
            f"evaluate.guidances: {[*evaluate.guidances]} needs evaluate.judged, which is how "
            "images are held against their captions"
        )
    if evaluate.reference and data.name not in (None, "captions") and teacher.kind != "gaussian":
        yield (
            f"evaluate.reference: {evaluate.reference}, but data.name {data.name} names the "
            "real images already; set data.name to null"
        )
