"""What a run costs: bytes of its outputs, work of a step, hours and price of its jobs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipeline.cluster.node import Speed
from pipeline.config import DistillConfig, DoctorConfig, PairsConfig
from pipeline.models.condition import Prompts
from pipeline.models.denoiser import Denoiser
from pipeline.runs.conditions import RunConditions
from pipeline.stages.plan import teacher_calls, training_calls
from pipeline.training.flops import StepFlops
from pipeline.training.memory import GIB, Footprint
from pipeline.training.peaks import USUAL, peak


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


def checkpoints(whole: Footprint, kept: int) -> Output:
    """As many as a run keeps, and two.

    Args:
        whole: Of all networks of a run.
        kept: As `distill.keep`.
    """
    state = whole.moments + 3 * whole.gradients // 2  # gradients are of two networks of three
    return Output((kept + 2) * state)


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


def work(flops: StepFlops, distill: DistillConfig, device: str) -> str:
    """TFLOP of a step in the last phase, and its seconds on GPUs whose peak is known.

    Args:
        flops: Of a run's step.
        distill: Its settings.
        device: Name of a worker's GPU.
    """
    step, workers = flops.cycle / 1e12, distill.workers.max
    text = f"distill: {step / distill.batch_size:.3g} TFLOP an image, {step:.3g} a step"
    if most := peak(device, distill.precision):
        seconds = step / workers / (USUAL * most)
        text += f"; {seconds:.2g} s a step on {workers} {device} at {USUAL:.0%} of {most:g} TFLOP/s"
    return text


def estimate(
    pairs: PairsConfig,
    distill: DistillConfig,
    prices: DoctorConfig,
    stored: int,
    speeds: Mapping[str, Speed],
) -> list[str]:
    """Hours and price of both jobs, and of what is stored, a line each.

    Args:
        pairs, distill, prices: Settings of a run.
        stored: Bytes of its outputs.
        speeds: Of "distill.workers" and, where there are pairs to make, "pairs.actors".
    """
    total, lines = 0.0, []
    work = {
        "pairs.actors": (teacher_calls(pairs) * pairs.count, 0.0),
        "distill.workers": training_calls(distill, pairs.guidance).evaluations(),
    }
    for name, speed in speeds.items():
        by_teacher, by_student = work[name]
        share = pairs.actors if name == "pairs.actors" else distill.workers
        hours = (by_teacher * speed.teacher + by_student * speed.student) / 3600
        price = hours * (share.gpus * prices.gpu_hour + share.cpus * prices.cpu_hour)
        total += price
        kind = "GPU" if share.gpus else "worker"
        lines.append(f"{name.split('.')[0]}: {hours:.3g} {kind}-hours, price {price:.2f}")
    month = stored / GIB * prices.gib_month
    lines.append(f"storage: {stored / GIB:.3g} GiB, price {month:.2f} a month")
    lines.append(f"in all: {total:.2f}, and {month:.2f} a month (prices: doctor.*)")
    return lines
