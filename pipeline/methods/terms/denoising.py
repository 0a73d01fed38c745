"""The denoising term: the critic learns the score of the student's samples."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.terms import DenoisingConfig
from pipeline.diffusion.losses import denoising_loss
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.methods.terms.term import CriticPass, NetworkCalls, Space, Term
from pipeline.utils.fields import Branch


@dataclass(frozen=True)
class Denoising(Term[DenoisingConfig]):
    """The critic's weighted squared error at diffused samples.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Eq. 6.
    """

    Settings: ClassVar[type[Branch]] = DenoisingConfig

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """One of the critic, there and back."""
        rows = self.distill.batch_size if plan.critic else 0
        return NetworkCalls(critic=rows, critic_backward=rows)

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """Its times; see `DMD.draw`."""
        noise_sample = space.at(microbatch.critic, space.within(self.settings.range))
        return replace(microbatch, critic=noise_sample)

    def critic_loss(self, seen: CriticPass) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over samples and pixels."""
        loss = denoising_loss(seen.x0, seen.samples, seen.weight)
        return loss, {self.name: loss.detach()}
