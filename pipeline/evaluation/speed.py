"""How fast student and teacher are, and what work they do."""

import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.utils.progress import Progress

Generate = Callable[[Tensor, Tensor | None], Tensor]
"""(noise (B, C, H, W), labels (B,) int64 or None) -> images on the CPU."""

_LONGEST = 2.0
"""Seconds of the longest batch that is tried for throughput."""


@dataclass(frozen=True)
class Speed:
    """Median times of one image (batch 1), in milliseconds, and their ratio."""

    latency_ms: float
    teacher_latency_ms: float
    speedup: float


def compare_speed(
    student: Generate, teacher: Generate, noise: Tensor, labels: Tensor | None, repeats: int = 20
) -> Speed:
    """Time both on the same input, turn by turn, after three rounds of warm-up.

    Args:
        student: What to time; an answer on the CPU ends the time of a GPU too.
        teacher: The same.
        noise: One noise, (1, C, H, W).
        labels: Its class, (1,) int64, or None.
        repeats: Rounds that count.
    """
    rounds = []
    with Progress(repeats + 3, "latency", "rounds") as bar:
        for _ in range(repeats + 3):
            start = time.perf_counter()
            student(noise, labels)
            middle = time.perf_counter()
            teacher(noise, labels)
            rounds.append((middle - start, time.perf_counter() - middle))
            bar.update(1)
    one, many = (1000 * median(times) for times in zip(*rounds[3:], strict=True))
    return Speed(latency_ms=one, teacher_latency_ms=many, speedup=many / one)


class Throughput(NamedTuple):
    """The best rate found, and the batch that gives it."""

    images_per_second: float
    batch_size: int


def throughput(generate: Generate, noise: Tensor, labels: Tensor | None) -> Throughput:
    """The best of batches of 1, 4, 16 ... images, warm, median of three.

    It ends where a larger batch gains less than 5%, or would take more than 2 seconds.

    Args:
        generate: What to time.
        noise: As many as the largest batch, (B, C, H, W).
        labels: Their classes, (B,) int64, or None.
    """

    def seconds(size: int) -> float:
        start = time.perf_counter()
        generate(noise[:size], None if labels is None else labels[:size])
        return time.perf_counter() - start

    best, size = Throughput(0.0, 0), 1
    while size <= len(noise):
        seconds(size)
        took = median(seconds(size) for _ in range(3))
        rate = size / took
        gained = rate > 1.05 * best.images_per_second
        if rate > best.images_per_second:
            best = Throughput(rate, size)
        if not gained or 4 * took > _LONGEST:
            break
        size *= 4
    return best


class Work(NamedTuple):
    """What one image takes.

    Attributes:
        nfe: Evaluations of the network; under guidance, two rows of one call are two.
        flops: Of the operators torch counts: products of matrices, convolutions, attention.
    """

    nfe: int
    flops: int


def work(generate: Generate, network: nn.Module, noise: Tensor, labels: Tensor | None) -> Work:
    """Count the work of one image.

    Args:
        generate: What makes it.
        network: Whose evaluations are counted.
        noise: One noise, (1, C, H, W).
        labels: Its class, (1,) int64, or None.
    """
    rows = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], *_: object) -> None:
        nonlocal rows
        rows += len(inputs[0])

    hook = network.register_forward_hook(count)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            generate(noise, labels)
    finally:
        hook.remove()
    return Work(rows, int(counter.get_total_flops()))


def device_name(device: torch.device) -> str:
    """Of the machine's GPU or processor, for readers of a figure."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_mib() -> int:
    """The most memory that this process has held so far, in MiB."""
    unit = 2**10 if sys.platform == "linux" else 1  # kilobytes on Linux, bytes on others
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20
