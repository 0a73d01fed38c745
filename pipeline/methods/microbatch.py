"""What a step is made of: whose turn it is, the draws of every lane, and what came of them."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pipeline.data.schema import PairBatch
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Schedule, diffuse

RealImages = tuple[Tensor, Tensor | None]
"""Images (B, C, H, W) as the teacher denoises them, and their conditions (B,) or None."""


@dataclass(frozen=True)
class StepPlan:
    """Who learns at a step, and from what.

    Attributes:
        regression, matching, gan: Weights of the student's losses; 0 leaves one out.
        critic: Whether the critic takes a step.
    """

    regression: float = 0.0
    matching: float = 0.0
    gan: float = 0.0
    critic: bool = False

    @property
    def student(self) -> bool:
        """Whether the student takes a step."""
        return self.regression > 0 or self.fresh

    @property
    def fresh(self) -> bool:
        """Whether the student learns from images of fresh noise."""
        return self.matching > 0 or self.gan > 0


@dataclass(frozen=True)
class NoiseSample:
    """Where images are diffused to: times (B,) and unit-variance noise (B, C, H, W)."""

    t: Tensor
    eps: Tensor

    def to(self, device: torch.device) -> "NoiseSample":
        """The same on a device."""
        return NoiseSample(self.t.to(device), self.eps.to(device))

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
            self.images.to(device),
            self.condition.to(device),
            self.noise_sample.to(device),
            self.shift.to(device),
        )


@dataclass(frozen=True)
class Microbatch:
    """One micro-batch: every random number of it at one step, its pairs and real images.

    Attributes:
        noise: Unit-variance input of the student, (B, C, H, W).
        condition: Of every sample.
        matching: Of the matching loss.
        critic: Of the critic's denoising loss.
        exit: Which of the student's times it learns at; the same for all lanes of a step.
        fooling, telling: Of the GAN's losses of student and critic; None where those share the
            draws above.
        real: Real images, where there is a GAN.
        pairs: Teacher pairs of the regression loss, where the step has one.
        pairs_condition: Theirs.
        weight: 0 for a lane that only fills up: sharded networks need every worker's call.
    """

    noise: Tensor
    condition: Condition
    matching: NoiseSample
    critic: NoiseSample
    step_index: int = 0
    generator_noise: NoiseSample | None = None
    discriminator_noise: NoiseSample | None = None
    real: Real | None = None
    pairs: PairBatch | None = None
    pairs_condition: Condition | None = None
    weight: float = 1.0

    def to(self, device: torch.device) -> "Microbatch":
        """The same lane on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: v.to(device) for name, v in values.items() if hasattr(v, "to")}
        )


@dataclass(frozen=True)
class Loss:
    """The loss of one lane.

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
