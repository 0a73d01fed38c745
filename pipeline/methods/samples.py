"""The student's samples before the frozen networks, which all losses on them share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion.condition import Inputs
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.sampler import Denoise, GuidedDenoise
from pipeline.methods.microbatch import Microbatch, NoiseSample

Weigh = Callable[[Tensor, Tensor], Tensor]
"""(losses (B,), logits (B, any)) -> weighted losses (B,)."""


class Source(NamedTuple):
    """Where samples come from.

    Attributes:
        student: The network, for calls without gradient.
        inputs: What it was given: x_t (B, C, H, W), times (B,) and condition.
    """

    student: Denoise
    inputs: Inputs


@dataclass
class SamplesSeen:
    """The student's samples, and what teacher and critic say of them.

    Args:
        x0: The samples, (B, C, H, W): a leaf that gets the gradients, so that no weight does.
        microbatch: Its draws.
        schedule: Of all networks.
        teacher: Under its guidance.
        critic: A network, or a `Critic`.
        step: Tells a critic which of the student's steps made the samples.
        weigh: What the logits of the matching term's pass do to its losses; None: the critic does
            not judge there.
        source: The student, and what it made the samples of.

    Attributes:
        logits: Of that pass, (B, logits), with gradient; None before it.
        real: The teacher's x0 in that pass, (B, C, H, W), without gradient; None before it.
    """

    x0: Tensor
    microbatch: Microbatch
    schedule: Schedule
    teacher: GuidedDenoise
    critic: Any
    step: dict[str, int]
    weigh: Weigh | None = None
    source: Source | None = None
    logits: Tensor | None = field(default=None, init=False)
    real: Tensor | None = field(default=None, init=False)

    def diffused(self, noise_sample: NoiseSample) -> Inputs:
        """The samples with noise, as networks are called; gradients flow to x0."""
        x_t = noise_sample.add_noise(self.x0, self.schedule)
        return Inputs(x_t, noise_sample.t, self.microbatch.condition)

    def noise_share(self, t: Tensor) -> Tensor:
        """sigma / (alpha + sigma) at times t, same shape."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma / (alpha + sigma)

    def predictions(
        self,
        inputs: Inputs,
        through: tuple[bool, bool] = (False, False),
        judge: bool = False,
        guided: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The teacher's and the critic's x0, (B, C, H, W).

        Args:
            inputs: Diffused samples.
            through: Whether gradients flow through the one and the other.
            judge: Whether the critic may judge them in the same pass.
            guided: Whether the teacher is under its guidance.
        """
        teacher: Denoise = self.teacher if guided else self.teacher.conditional
        through_teacher, through_critic = through
        with torch.set_grad_enabled(through_teacher):
            real = teacher(*inputs)
        if judge and self.weigh is not None:
            self.real = real.detach()
            fake, self.logits = self.critic.denoise_and_logits(inputs, **self.step)
            return real, fake if through_critic else fake.detach()
        with torch.set_grad_enabled(through_critic):
            return real, self.critic(*inputs, **self.step)

    @torch.no_grad()
    def guidance(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The teacher's x0 of diffused samples, under guidance and without, (B, C, H, W) each."""
        return self.teacher.both(*inputs)

    def weighted(self, losses: Tensor) -> Tensor:
        """Losses (B,) on the samples that the critic judged, weighted by their logits."""
        if self.weigh is None or self.logits is None:
            return losses
        return self.weigh(losses, self.logits)
