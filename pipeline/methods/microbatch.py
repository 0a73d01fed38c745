"""What a step is made of: who learns, the draws of every microbatch, and what came of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.devices import moved
from pipeline.diffusion.noise import Schedule, diffuse
from pipeline.diffusion.pairs import PairBatch

RealImages = tuple[Tensor, Tensor | None]
"""Images (B, C, H, W) as the teacher denoises them, and their labels (B,) or None."""


@dataclass(frozen=True)
class StepPlan:
    """Who learns at a step, and from what.

    Attributes:
        on_pairs, on_samples: Weights of the student's losses by their terms' names: on its images
            of the pairs' noise, and of fresh noise. A loss of weight 0 is left out.
        critic: Whether the critic takes a step.
    """

    on_pairs: Mapping[str, float] = field(default_factory=dict)
    on_samples: Mapping[str, float] = field(default_factory=dict)
    critic: bool = False

    @property
    def student(self) -> bool:
        """Whether the student takes a step."""
        return bool(self.on_pairs or self.on_samples)


@dataclass(frozen=True)
class NoiseSample:
    """Where images are diffused to: times (B,) and unit-variance noise (B, C, H, W)."""

    t: Tensor
    eps: Tensor

    def to(self, device: torch.device) -> "NoiseSample":
        """The same on a device."""
        return NoiseSample(moved(self.t, device), moved(self.eps, device))

    def add_noise(self, images: Tensor, schedule: Schedule) -> Tensor:
        """The images diffused, (B, C, H, W)."""
        return diffuse(images, self.eps, self.t, schedule)


@dataclass(frozen=True)
class Real:
    """Real images (B, C, H, W), their condition, and where they are diffused to.

    Attributes:
        shift: Unit-variance noise (B, C, H, W) that their neighbours are made with.
    """

    images: Tensor
    condition: Condition
    noise_sample: NoiseSample
    shift: Tensor

    def to(self, device: torch.device) -> "Real":
        """The same on a device."""
        return Real(
            moved(self.images, device),
            self.condition.to(device),
            self.noise_sample.to(device),
            moved(self.shift, device),
        )


@dataclass(frozen=True)
class Microbatch:
    """One micro-batch: every random number of it at one step, its pairs and real images.

    Attributes:
        noise: Unit-variance input of the student, (B, C, H, W).
        condition: Of every sample.
        matching: Of the matching loss.
        critic: Of the critic's denoising loss.
        step_index: Which of the student's timesteps it trains; the same for all of a step.
        labels: What the conditions were made of, (B,): classes, or numbers of prompts; None where
            there are none.
        generator_noise, discriminator_noise: Of the GAN's losses of student and critic; None where
            those share the draws above.
        real: Real images, where there is a GAN.
        pairs: Teacher pairs of the regression loss, where the step has one.
        pairs_condition: Theirs.
        draws: Of the other terms, by their names: tensors, or what has a `to` of its own.
        weight: 0 for one that only fills up: sharded networks need every worker's call.
    """

    noise: Tensor
    condition: Condition
    matching: NoiseSample
    critic: NoiseSample
    step_index: int = 0
    labels: Tensor | None = None
    generator_noise: NoiseSample | None = None
    discriminator_noise: NoiseSample | None = None
    real: Real | None = None
    pairs: PairBatch | None = None
    pairs_condition: Condition | None = None
    draws: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def to(self, device: torch.device) -> "Microbatch":
        """The same on a device."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(
            self,
            draws={name: _moved(value, device) for name, value in self.draws.items()},
            **{name: _moved(v, device) for name, v in values.items() if hasattr(v, "to")},
        )


def _moved(value: Any, device: torch.device) -> Any:
    return moved(value, device) if isinstance(value, Tensor) else value.to(device)


@dataclass(frozen=True)
class Loss:
    """The loss of one microbatch.

    Attributes:
        total: What is minimised, (); of the student's losses on fresh noise only the gradient
            means something.
        parts: Detached scalars for the log.
        samples: The student's images of the fresh noise, (B, C, H, W), detached, where the
            loss made them.
    """

    total: Tensor
    parts: dict[str, Tensor]
    samples: Tensor | None = None
