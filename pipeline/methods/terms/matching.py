"""The matching term: pulls the student's distribution to the teacher's."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.terms import MatchingConfig
from pipeline.diffusion.matching import MATCHING
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms.term import NetworkCalls, Space, Term
from pipeline.utils.fields import Branch


@dataclass(frozen=True)
class Matching(Term[MatchingConfig]):
    """A loss of `MATCHING` on the teacher's and the critic's predictions at diffused samples.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Section 3.2.
    """

    Settings: ClassVar[type[Branch]] = MatchingConfig

    @property
    def weight(self) -> float:
        """In the third phase."""
        return self.settings.weight

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """One of each frozen network, and back through both if the loss sees through them."""
        if self.name not in plan.on_samples:
            return NetworkCalls()
        rows, each = self.distill.batch_size, guided if self._guided else 1
        matching = MATCHING[self.settings.loss]
        return NetworkCalls(
            teacher=each * rows,
            teacher_backward=each * rows * matching.through_teacher,
            critic=rows,
            critic_backward=rows * matching.through_critic,
        )

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """Its times; see `DMD.draw`."""
        noise_sample = space.at(microbatch.matching, space.within(self.settings.range))
        return replace(microbatch, matching=noise_sample)

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the samples."""
        matching = MATCHING[self.settings.loss]
        inputs = seen.diffused(seen.microbatch.matching)
        through = matching.through_teacher, matching.through_critic
        real, fake = seen.predictions(inputs, through, judge=True, guided=self._guided)
        level = (seen.noise_share(inputs.t),) if matching.by_level else ()
        return seen.weighted(matching.loss(seen.x0, real, fake, *level)).mean(), {}

    @property
    def _guided(self) -> bool:
        """Whether the teacher is: guidance may be a term of its own."""
        return not self.distill.augmentation.weight
