#!/usr/bin/env python3
"""Where the teacher's score leads, and where its ODE ends: they are not the same images.

`fd_teacher` measures against the second; students that match scores may tend to the first. Samples
the teacher of `bench/methods.py` (to be run before) by its ODE and with fresh noise in every step,
and compares both, the real images, and the students of one and of four steps.

    python bench/samplers.py --data mnist --seeds 0 1 --count 4000
"""

import argparse
import sys
from pathlib import Path

import methods
import torch
from ablation import Scale
from prove import write
from torch import Tensor

from pipeline.diffusion import seeds
from pipeline.diffusion.noise import expand
from pipeline.evaluation.classifier import read
from pipeline.evaluation.metrics.frechet import frechet_distance
from pipeline.models.denoiser import Denoiser

STEPS = 64
STUDENTS = ("DMD2 without GAN, k = 5", "DMD2 without GAN, k = 5, 4 steps")
COLUMNS = ("to the ODE", "to the sampler with noise", "to real images")


@torch.no_grad()
def ancestral(teacher: Denoiser, noise: Tensor, labels: Tensor) -> Tensor:
    """Sample with fresh noise in every step.

    Each goes to q(x_s | x_t, x0) of the process x_t = x0 + t eps: mean x0 + (s/t)^2 (x_t - x0),
    variance s^2 (1 - (s/t)^2).

    Args:
        teacher: With an EDM schedule.
        noise: Unit-variance noise, (B, C, H, W).
        labels: Classes, (B,).

    Source: Ho et al., 2020, arXiv 2006.11239, Eq. 6 and 7, for the schedule of Karras et al., 2022.
    """
    times = teacher.schedule.times(STEPS).float()
    x_t = times[0] * noise
    for number, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        x0 = teacher(x_t, t.expand(len(noise)), labels)
        kept = expand((s / t) ** 2, x0)
        x_t = x0 + kept * (x_t - x0) + s * (1 - kept).sqrt() * seeds.renewed(noise, number)
    return x_t


def compare(data: str, seed: int, count: int) -> dict[str, list[float | None]]:
    """Fréchet distances of each kind of image to those of `COLUMNS`; None to itself."""
    scale = Scale(methods.starting(data, seed), count)
    noisy = scale.make(lambda noise, labels: ancestral(scale.teacher, noise, labels))
    made = {"teacher by its ODE": scale.other, "teacher with noise": noisy}
    for name in STUDENTS:
        config = methods.following(data, seed, name)
        if Path(config.evaluate.student).is_dir():
            made[name] = scale.student_images(config)
    features = {name: read(scale.classifier, images).features for name, images in made.items()}
    ode, other = read(scale.classifier, scale.images).features, features["teacher with noise"]
    return {
        name: [
            None if each is ours else frechet_distance(each, ours)
            for each in (ode, other, scale.real)
        ]
        for name, ours in features.items()
    }


def main() -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", choices=methods.DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    results = {}
    for seed in arguments.seeds:
        results[f"seed {seed}"] = found = compare(arguments.data, seed, arguments.count)
        print(f"| {arguments.data}, seed {seed} | {' | '.join(COLUMNS)} |")
        print("|---" * (len(COLUMNS) + 1) + "|")
        for name, row in found.items():
            cells = ["" if value is None else f"{value:.3g}" for value in row]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    content = {"count": arguments.count, "columns": COLUMNS, "results": results}
    write(f"samplers-{arguments.data}", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
