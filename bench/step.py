#!/usr/bin/env python3
"""A cycle of DMD2 with and without regression, in as few passes as it takes and in separate ones.

python bench/step.py [--pairs 7] [--json FILE]

On the UNet of configs/mnist.yaml: a student's step with matching, GAN and, in the first of two
cycles, regression, then three of the critic. The separate way has a student pass for the matching
and one for the regression, and a pass of the critic's encoder of its own for each GAN loss; both
have the same draws. Passes of their own are what public implementations have. DMD2 itself has no
regression: the cycle with it is a recipe of ours, and the bars are for that one alone.

                                                                      with regression    without
flops_ratio          shared / separate, by torch's counter            bar <= 0.85        no bar
cpu_ratio            the same of CPU time, median of the pairs        bar <= 0.90        no bar
gradient_difference  of all weights, relative                         bar <= 1e-5        <= 1e-5
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.cli import load  # noqa: E402
from pipeline.diffusion.condition import Condition, Inputs  # noqa: E402
from pipeline.diffusion.losses import denoising_loss, regression_loss  # noqa: E402
from pipeline.diffusion.matching import dmd  # noqa: E402
from pipeline.diffusion.noise import EDM  # noqa: E402
from pipeline.diffusion.pairs import PairBatch  # noqa: E402
from pipeline.methods.dmd import DMD  # noqa: E402
from pipeline.methods.microbatch import Microbatch  # noqa: E402
from pipeline.methods.recipe import Recipe  # noqa: E402
from pipeline.models.condition import ClassLabels  # noqa: E402
from pipeline.models.critic import Critic  # noqa: E402
from pipeline.models.families.edm import new_unet  # noqa: E402
from pipeline.models.sampling import guide  # noqa: E402

SETTINGS = (
    *("--distill.regression_steps=0", "--distill.burn_in_steps=0", "--distill.student.every=1"),
    *("--distill.gan.real=pairs", "--distill.draws=shared"),
)
CRITIC_STEPS = 3
CLASSES = 10
BARS = {"flops_ratio": 0.85, "cpu_ratio": 0.90, "gradient_difference": 1e-5}
"""Of the cycle with regression."""
BARS_WITHOUT = {"gradient_difference": 1e-5}
"""Of DMD2's own, without it: what it saves is only shown."""
Figures = dict[str, float]
Calls = dict[str, int]
"""Passes by network: of the critic, "encoder" counts all and "decoder" those that denoise."""


class Cycle:
    """Networks and draws of one cycle.

    Args:
        rows: Of every batch: fresh samples, pairs, real images.
        regression: Whether the student learns from the pairs too.
    """

    def __init__(self, rows: int, regression: bool = True) -> None:
        settings = SETTINGS if regression else (*SETTINGS, "--distill.regression.weight=0")
        config = load(["--config", str(ROOT / "configs" / "mnist.yaml"), *settings])
        shape = (1, config.data.size, config.data.size)
        self.student, self.teacher, denoiser = (
            new_unet(config.network, shape, CLASSES, seed) for seed in range(3)
        )
        weight, recipe = self.teacher.error_weight, Recipe.of(config.distill)
        self.method = DMD(EDM(), weight, shape, ClassLabels(CLASSES), recipe)
        self.plan = self.method.plan(0)
        self.teacher.requires_grad_(False)
        torch.manual_seed(0)
        self.critic = Critic(denoiser)
        rng = torch.Generator().manual_seed(0)
        self.microbatches = []
        for _ in range(CRITIC_STEPS):
            noise, images, real = torch.randn(3, rows, *shape, generator=rng)
            labels = torch.randint(CLASSES, (2, rows), generator=rng)
            pairs = PairBatch(torch.arange(rows), labels[0], noise, images)
            self.microbatches.append(self.method.draw(rows, rng, pairs, (real, labels[1])))

    def shared(self) -> None:
        """As training does it."""
        teacher = guide(self.teacher, 1.0)
        loss = self.method.student_loss(
            self.plan, self.student, teacher, self.critic, self.microbatches[0]
        )
        loss.total.backward()
        for number, microbatch in enumerate(self.microbatches):
            samples = self.method.samples(self.student, microbatch) if number else loss.samples
            assert samples is not None
            self.method.critic_loss(self.critic, samples, microbatch).total.backward()

    def separate(self) -> None:
        """Every loss with passes of its own."""
        first, plan = self.microbatches[0], self.plan
        x0 = self._images(first.noise, first.condition)
        x_t, t = first.matching.add_noise(x0, self.method.schedule), first.matching.t
        with torch.no_grad():
            real = self.teacher(x_t, t, first.condition)
            fake = self.critic(x_t, t, first.condition)
        self.critic.requires_grad_(False)
        fooled = softplus(-self.critic.logits(Inputs(x_t, t, first.condition))).mean()
        weights = {**plan.on_pairs, **plan.on_samples}
        (weights["matching"] * dmd(x0, real, fake).mean() + weights["gan"] * fooled).backward()
        self.critic.requires_grad_(True)
        if "regression" in weights:
            assert first.pairs is not None and first.pairs_condition is not None
            made = self._images(first.pairs.noise, first.pairs_condition)
            (weights["regression"] * regression_loss(made, first.pairs.images)).backward()
        for number, microbatch in enumerate(self.microbatches):
            samples = self.method.samples(self.student, microbatch) if number else x0.detach()
            self._tell(samples, microbatch)

    def _images(self, noise: Tensor, condition: Condition) -> Tensor:
        return self.method.sampler.images(self.student, noise, condition)

    def _tell(self, samples: Tensor, microbatch: Microbatch) -> None:
        schedule, draw, real = self.method.schedule, microbatch.critic, microbatch.real
        assert real is not None
        x_t = draw.add_noise(samples, schedule)
        inputs = Inputs(x_t, draw.t, microbatch.condition)
        denoising_loss(self.critic(*inputs), samples, self.method.error_weight(draw.t)).backward()
        fake = self.critic.logits(inputs)
        x_t, t = real.noise_sample.add_noise(real.images, schedule), real.noise_sample.t
        true = self.critic.logits(Inputs(x_t, t, real.condition))
        (1e-2 * (softplus(fake).mean() + softplus(-true).mean())).backward()

    def gradients(self, sampler: Callable[[], None]) -> Tensor:
        """Of all weights after one cycle, (weights,)."""
        networks = (self.student, self.critic)
        for network in networks:
            network.zero_grad()
        sampler()
        return torch.cat([p.grad.flatten() for each in networks for p in each.parameters()])  # type: ignore[union-attr]

    def calls(self, sampler: Callable[[], None]) -> Calls:
        """How often each network runs in one cycle."""
        critic = self.critic.denoiser.backbone
        watched: dict[str, nn.Module] = {
            "student": self.student,
            "teacher": self.teacher,
            "critic's encoder": critic.conv_in,
            "critic's decoder": critic.conv_out,
        }
        found = dict.fromkeys(watched, 0)

        def count(name: str) -> Callable[..., None]:
            def hook(*_: object) -> None:
                found[name] += 1

            return hook

        handles = [each.register_forward_hook(count(name)) for name, each in watched.items()]
        sampler()
        for handle in handles:
            handle.remove()
        return found


def flops(sampler: Callable[[], None]) -> int:
    """Floating-point operations of convolutions and products in one cycle."""
    with FlopCounterMode(display=False) as counter:
        sampler()
    return int(counter.get_total_flops())


def seconds(sampler: Callable[[], None]) -> float:
    """CPU time of one cycle."""
    start = time.process_time()
    sampler()
    return time.process_time() - start


def measure(cycle: Cycle, pairs: int) -> tuple[Figures, list[float]]:
    """The figures of a cycle, and the ratios of CPU time of each pair of timings."""
    ours, theirs = cycle.shared, cycle.separate
    for name, sampler in (("shared", ours), ("separate", theirs)):
        print(name, "calls:", ", ".join(f"{key} {n}" for key, n in cycle.calls(sampler).items()))
    reference = cycle.gradients(theirs)
    difference = (cycle.gradients(ours) - reference).norm() / reference.norm()
    ratios = [seconds(ours) / seconds(theirs) for _ in range(pairs)]
    figures = {
        "flops_ratio": flops(ours) / flops(theirs),
        "cpu_ratio": statistics.median(ratios),
        "gradient_difference": float(difference),
    }
    return figures, ratios


def main() -> int:
    """Measure, print, write; 0 if the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of timings")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    written, held = {}, True
    for title, bars in (("with regression", BARS), ("without", BARS_WITHOUT)):
        print(f"\n{title}")
        cycle = Cycle(rows=64, regression=bars is BARS)
        figures, ratios = measure(cycle, arguments.pairs)
        for name, value in figures.items():
            print(
                f"{name:20} {value:.3g}  " + (f"bar {bars[name]:g}" if name in bars else "no bar")
            )
        print("cpu ratios", ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios)))
        written[title] = {**figures, "cpu_ratios": ratios}
        held = held and all(figures[name] <= bar for name, bar in bars.items())
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
