"""What a run will take: work, hours and price."""

from collections.abc import Iterator, Mapping

import torch

from pipeline.cluster.node import Speed
from pipeline.config import Config
from pipeline.models.denoiser import Denoiser
from pipeline.models.frozen import meta_copy
from pipeline.stages.plan import teacher_calls, training_calls
from pipeline.training.flops import step_flops
from pipeline.training.method import build_method, new_networks
from pipeline.training.peaks import peak

USUAL = 0.4
"""Share of its peak that a GPU reaches in training that is going well."""


def price(config: Config, speeds: Mapping[str, Speed], stored: float) -> Iterator[str]:
    """Hours and price of both jobs.

    Args:
        config: Of the run.
        speeds: Of a pair actor and of a training worker, by their settings.
        stored: GiB that the run leaves.
    """
    prices, total = config.doctor, 0.0
    work = {
        "pairs.actors": (teacher_calls(config.pairs) * config.pairs.count, 0.0),
        "distill.workers": training_calls(config.distill, config.pairs.guidance).evaluations(),
    }
    for name, (by_teacher, by_student) in work.items():
        speed = speeds[name]
        share = config.pairs.actors if name == "pairs.actors" else config.distill.workers
        hours = (by_teacher * speed.teacher + by_student * speed.student) / 3600
        cost = hours * (share.gpus * prices.gpu_hour + share.cpus * prices.cpu_hour)
        total += cost
        kind = "GPU" if share.gpus else "worker"
        yield f"{name.split('.')[0]}: {hours:.3g} {kind}-hours, {cost:.2f}"
    month = stored * prices.gib_month
    yield f"storage: {stored:.3g} GiB, {month:.2f} a month"
    yield f"in all: {total:.2f}, and {month:.2f} a month (prices: doctor.*)"


def work(config: Config, teacher: Denoiser, device: str) -> Iterator[str]:
    """TFLOP of a step in the last phase, and its seconds on GPUs whose peak is known.

    Nothing if the networks cannot be counted.

    Args:
        config: Of the run.
        teacher: Loaded.
        device: Name of a worker's GPU.
    """
    distill, workers = config.distill, config.distill.workers.max
    student, critic = new_networks(distill, config.network, config.seed, meta_copy(teacher))
    method = build_method(distill, teacher, torch.device("meta"))
    flops = step_flops(config, method, teacher, student.to("meta"), critic.to("meta"))
    if flops is None:
        return
    step = flops.cycle / 1e12
    text = f"distill: {step / distill.batch_size:.3g} TFLOP an image, {step:.3g} a step"
    if most := peak(device, distill.precision):
        seconds = step / workers / (USUAL * most)
        text += f"; {seconds:.2g} s a step on {workers} {device} at {USUAL:.0%} of {most:g} TFLOP/s"
    yield text
