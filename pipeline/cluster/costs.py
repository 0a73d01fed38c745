"""What a run costs: bytes of its outputs, and hours and price of its jobs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipeline.cluster.node import Speed
from pipeline.config import Config
from pipeline.models.condition import Prompts
from pipeline.models.denoiser import Denoiser
from pipeline.runs.conditions import RunConditions
from pipeline.stages.plan import set_bytes, teacher_calls, training_calls
from pipeline.training.memory import footprint

GIB = 2**30


@dataclass(frozen=True)
class Output:
    """What an output of a run takes.

    Attributes:
        bytes: Of all of it.
        made: Whether it is there already.
        most: Whether it may be less.
    """

    bytes: int
    made: bool = False
    most: bool = False


def outputs(config: Config, teacher: Denoiser) -> dict[str, Output]:
    """Pairs and checkpoints, by the URIs of their outputs; none is taken to be there."""
    whole = footprint(config, teacher)
    state = whole.moments + 3 * whole.gradients // 2  # gradients are of two networks of three
    return {
        config.pairs.output: Output(set_bytes(config.pairs.count, teacher.buckets)),
        config.distill.output: Output((config.distill.keep + 2) * state),
    }


def stored_conditions(found: RunConditions, teacher: Denoiser, precision: str) -> Output:
    """The set of conditions that a run reads.

    Before it is made, as if all were as long as that of the longest prompt, in bytes of its text.

    Args:
        found: Of the run.
        teacher: Of a set to be made with its text encoders.
        precision: As `embed.precision`.

    Raises:
        UserError: If the set's manifest is damaged.
    """
    if found.made:
        return Output(sum(shard.bytes for shard in found.manifest.shards), made=True)
    prompts = teacher.conditioner
    assert isinstance(prompts, Prompts), "conditions are stored of prompts"
    texts = prompts.prompts
    longest = max(range(len(texts)), key=lambda number: len(texts[number].encode()))
    row = prompts.row(longest, torch.device("cpu")).tensors.values()
    stored = 4 if precision == "fp32" else 2
    size = sum(v.numel() * (stored if v.is_floating_point() else v.itemsize) for v in row)
    return Output((len(texts) + prompts.guidable) * size, most=True)


def estimate(
    config: Config, outputs: Mapping[str, Output], speeds: Mapping[str, Speed]
) -> list[str]:
    """Hours and price of both jobs, and of what is stored, a line each.

    Args:
        config: Of the run.
        outputs: What it stores.
        speeds: Of "pairs.actors" and "distill.workers".
    """
    prices, total, lines = config.doctor, 0.0, []
    work = {
        "pairs.actors": (teacher_calls(config.pairs) * config.pairs.count, 0.0),
        "distill.workers": training_calls(config.distill, config.pairs.guidance).evaluations(),
    }
    for name, (by_teacher, by_student) in work.items():
        speed = speeds[name]
        share = config.pairs.actors if name == "pairs.actors" else config.distill.workers
        hours = (by_teacher * speed.teacher + by_student * speed.student) / 3600
        price = hours * (share.gpus * prices.gpu_hour + share.cpus * prices.cpu_hour)
        total += price
        kind = "GPU" if share.gpus else "worker"
        lines.append(f"{name.split('.')[0]}: {hours:.3g} {kind}-hours, {price:.2f}")
    stored = sum(each.bytes for each in outputs.values()) / GIB
    month = stored * prices.gib_month
    lines.append(f"storage: {stored:.3g} GiB, {month:.2f} a month")
    lines.append(f"in all: {total:.2f}, and {month:.2f} a month (prices: doctor.*)")
    return lines
