"""The denoising term: the critic learns the score of the student's samples."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.losses import denoising_loss
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.methods.terms.term import CriticPass, NetworkCalls, Space, Term
from pipeline.utils.fields import Branch, Rate, Span


class DenoisingConfig(Branch):
    """The critic, which learns to denoise what the student makes."""

    lr: Rate = Field(default=5e-4, description="Learning rate of AdamW.")
    range: Span = Field(
        default=(0.15, 0.8), description="Noise levels drawn, as parts: 0 clean, 1 pure noise."
    )


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
        return replace(microbatch, critic=space.at(microbatch.critic, self.settings.range))

    def critic_loss(self, seen: CriticPass) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over samples and pixels."""
        loss = denoising_loss(seen.x0, seen.samples, seen.weight)
        return loss, {self.name: loss.detach()}
