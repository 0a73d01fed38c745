"""The augmentation term: what guidance adds, apart from the matching loss."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.terms import AugmentationConfig
from pipeline.diffusion.matching import dmd
from pipeline.diffusion.noise import Schedule
from pipeline.methods.microbatch import Microbatch, NoiseSample, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms.term import NetworkCalls, Space, Term
from pipeline.utils.errors import UserError
from pipeline.utils.fields import Branch


@dataclass(frozen=True)
class Augmentation(Term[AugmentationConfig]):
    """CFG augmentation: DMD's loss between the teacher without guidance and under it.

    Under guidance a the gradient of matching is (fake - guided) = (fake - cond) + (cond - guided),
    and cond - guided = -(a - 1) (cond - uncond). With this term the matching loss is the first part
    alone, and each has noise of its own: here none above that of the student's input, for only the
    levels below it are still to be made.

    Source: Decoupled DMD (Liu et al., 2025), arXiv 2511.22677, Eq. 6 and 8, Algorithm 1, whose time
    runs from noise to image. It divides by nothing; here each part is over its own mean|x0 - real|,
    as in DMD.
    """

    Settings: ClassVar[type[Branch]] = AugmentationConfig

    @property
    def active(self) -> bool:
        """Whether it has a weight."""
        return self.weight > 0

    @property
    def weight(self) -> float:
        """In the third phase."""
        return self.settings.weight

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """One of the teacher, with the condition and without."""
        rows = self.distill.batch_size if self.name in plan.on_samples else 0
        return NetworkCalls(teacher=guided * rows)

    def levels(self, step_index: int, schedule: Schedule) -> tuple[float, float]:
        """Ends of the noise levels of one of the student's steps; the first one's input is noise.

        Raises:
            UserError: If the range has none of them.
        """
        low, high = self.settings.range
        if not step_index:
            return low, high
        time = (self.distill.student.times or ())[step_index]
        most = float(schedule.fraction_from_time(torch.tensor(time, dtype=torch.float64)))
        if low >= most:
            raise UserError(
                f"distill.augmentation.range: {[low, high]} has no noise level below {most:.2f}, "
                f"that of the student's input at {time:g} (distill.student.times); lower it"
            )
        return low, min(high, most)

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """Noise of its own, at most that of the student's input."""
        ends = self.levels(microbatch.step_index, space.schedule)
        count = len(microbatch.noise)
        eps = torch.randn(count, *space.shape, generator=rng)
        uniform = NoiseSample(torch.rand(count, generator=rng), eps)
        own = space.at(uniform, ends)
        return replace(microbatch, draws={**microbatch.draws, self.name: own})

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the samples."""
        guided, conditional = seen.guidance(seen.diffused(seen.microbatch.draws[self.name]))
        return dmd(seen.x0, guided, conditional).mean(), {}
