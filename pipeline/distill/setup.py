"""From the config to a run ready to step: networks, optimisers, data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.optim import AdamW

from pipeline.config import Config, DistillConfig
from pipeline.data.order import PairReader
from pipeline.data.store import open_store
from pipeline.diffusion import seeds
from pipeline.distill.checkpoint import State
from pipeline.distill.dmd import DMD, Lane
from pipeline.distill.grid import Grid
from pipeline.distill.run import fingerprint, needs_pairs
from pipeline.distill.step import Step, Trained
from pipeline.ema import ema_of
from pipeline.models.build import load_teacher, new_student
from pipeline.models.sampling import guide


@dataclass(frozen=True)
class Training:
    """A run ready to step.

    Attributes:
        step: The optimiser step.
        lane: The lane `(step, number)`: the same draws and pairs whichever worker asks.
        grid: Pictures from fixed noise.
        state: What a checkpoint holds.
        fingerprint: SHA-256 of all that defines the optimisation.
    """

    step: Step
    lane: Callable[[int, int], Lane]
    grid: Grid
    state: State
    fingerprint: str


def prepare(config: Config) -> Training:
    """Build a run at step 0 on this worker's device.

    Raises:
        UserError: If the teacher or the pairs cannot be read, or the pairs are of another
            teacher.
    """
    distill = config.distill
    # PyTorch's DDP rebuilds its buckets after the first step of a process, and three and more
    # workers then sum in another order after a restart: with this it does not.
    wrapper = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[wrapper])
    device = accelerator.device
    teacher = load_teacher(config.teacher).to(device)
    method = DMD(
        schedule=teacher.schedule,
        shape=teacher.shape,
        classes=teacher.classes,
        regression_steps=distill.regression_steps,
        burn_in_steps=distill.burn_in_steps,
        regression_weight=distill.regression.weight,
        matching_weight=distill.matching.weight,
        matching_range=distill.matching.range,
        critic_range=distill.critic.range,
        student_every=distill.student.every,
    )
    guided = guide(teacher, config.pairs.guidance)
    student = _trained(
        new_student(teacher, config.network, config.seed), student_rate(distill), accelerator
    )
    critic = _trained(
        new_student(teacher, config.network, config.seed), critic_rate(distill), accelerator
    )
    bare_student = accelerator.unwrap_model(student.network)
    ema = ema_of(bare_student, distill.ema)
    solver = (config.pairs.solver, config.pairs.steps, config.pairs.guidance)
    return Training(
        step=Step(
            method=method,
            student=student,
            critic=critic,
            teacher=guided,
            ema=ema,
            accelerator=accelerator,
            lanes=distill.lanes,
            clip=distill.clip,
        ),
        lane=_lanes(config, method, device),
        grid=Grid(method, teacher, guided, solver, config.seed, device),
        state=State(
            networks={
                "student": bare_student,
                "critic": accelerator.unwrap_model(critic.network),
                "ema": ema,
            },
            optimizers={"student": student.optimizer, "critic": critic.optimizer},
        ),
        fingerprint=fingerprint(config),
    )


def student_rate(distill: DistillConfig) -> Callable[[int], float]:
    """The student's learning rate at a step, counted from 0.

    Half a cosine to zero over the regression phase, then constant; a linear warm-up at the
    start of both.
    """
    end, dmd = distill.regression_steps, distill.regression_steps + distill.burn_in_steps

    def rate(step: int) -> float:
        if step < end:
            decay = 0.5 * (1 + math.cos(math.pi * step / end))
            return distill.regression.lr * decay * _warmup(step, distill.warmup)
        return distill.student.lr * _warmup(step - dmd, distill.warmup)

    return rate


def critic_rate(distill: DistillConfig) -> Callable[[int], float]:
    """The critic's learning rate: a linear warm-up from its first step, then constant."""

    def rate(step: int) -> float:
        return distill.critic.lr * _warmup(step - distill.regression_steps, distill.warmup)

    return rate


def _warmup(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (steps + 1))


def _trained(network: nn.Module, rate: Callable[[int], float], accelerator: Accelerator) -> Trained:
    """AdamW with the betas and weight decay of DMD (arXiv 2311.18828, Section 5.1)."""
    optimizer = AdamW(network.parameters(), betas=(0.9, 0.999), weight_decay=0.01, fused=True)
    prepared, prepared_optimizer = accelerator.prepare(network, optimizer)
    return Trained(prepared, prepared_optimizer, rate)


def _lanes(config: Config, method: DMD, device: torch.device) -> Callable[[int, int], Lane]:
    distill, reader = config.distill, None
    if needs_pairs(config):
        size = distill.regression.batch_size // distill.lanes
        reader = PairReader(open_store(config.pairs.output, config.s3), config.seed, size)

    def lane(step: int, number: int) -> Lane:
        rng = seeds.generator("distill", config.seed, step, number)
        pairs = None
        if reader is not None and method.turn(step).regression:
            pairs = reader.batch(step * distill.lanes + number)
        return method.draw(distill.batch_size // distill.lanes, rng, pairs).to(device)

    return lane
