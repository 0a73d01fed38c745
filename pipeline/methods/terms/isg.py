"""The intra-segment term: a step comes where it would from a point on the teacher's way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.terms import ISGConfig
from pipeline.diffusion.losses import charbonnier_loss
from pipeline.diffusion.noise import Schedule, expand
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms.term import NetworkCalls, Space, Term
from pipeline.utils.errors import UserError
from pipeline.utils.fields import Branch

MARGIN = 0.2
"""Part of a segment at either end in which no time is drawn: the source's 50 of 250 timesteps."""
NOISE = 0.98
"""Least share of noise in the student's first input: at most 4% of the variance is missing."""
Factors = tuple[Tensor, Tensor]
"""alpha and sigma at a time, as they broadcast over images."""


@dataclass(frozen=True)
class ISG(Term[ISGConfig]):
    """Distance of where a step of DDIM comes to where it comes by way of the teacher.

    From the student's input at its time the teacher goes to a time between this and the next, in
    one step of its ODE; from there the student itself goes on to the next time, or to the clean
    image after the last, without gradient. That point is the target of the student's own step.

    Source: intra-segment guidance of SenseFlow (Ge et al., 2025), arXiv 2506.00523, and its
    authors' code.
    """

    Settings: ClassVar[type[Branch]] = ISGConfig

    @property
    def weight(self) -> float:
        """In the third phase."""
        return self.settings.weight

    def check(self, schedule: Schedule) -> None:
        """Whether the student's input at its first time, pure noise, is on the teacher's way.

        Raises:
            UserError: If there is an image in what the teacher knows of that time.
        """
        first = torch.tensor((self.distill.student.times or (schedule.start,))[0]).double()
        share = float(schedule.sigma(first) / schedule.init_noise_sigma(first))
        if share < NOISE:
            raise UserError(
                f"distill.terms.{self.name}: the student is given noise at {first:g}, its first "
                f"time, where the teacher knows images of {share:.2f} parts of noise; begin "
                f"distill.student.times at {schedule.start:g}, or leave this term out"
            )

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """One of the teacher, and one more of the student."""
        rows = self.distill.batch_size if self.name in plan.on_samples else 0
        return NetworkCalls(teacher=guided * rows, student=rows)

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """Times within the step's segment, (B,)."""
        times = self.distill.student.times or (space.schedule.start,)
        ends = space.schedule.fraction_from_time(torch.tensor(times, dtype=torch.float64)).tolist()
        high, low = [*ends, 0.0][microbatch.step_index : microbatch.step_index + 2]
        part = MARGIN + (1 - 2 * MARGIN) * torch.rand(len(microbatch.noise), generator=rng)
        between = space.schedule.time_from_fraction(low + (high - low) * part)
        return replace(microbatch, draws={**microbatch.draws, self.name: between})

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over samples and pixels."""
        assert seen.source is not None
        student, (x_t, here, condition) = seen.source
        factors = _factors_like(x_t, seen.schedule)
        between = seen.microbatch.draws[self.name]
        start, middle, end = factors(here), factors(between), self._end(seen, factors)
        with torch.no_grad():
            x_mid = _step(x_t, seen.teacher(x_t, here, condition), start, middle)
            target = _step(x_mid, student(x_mid, between, condition), middle, end)
        loss = charbonnier_loss(_step(x_t, seen.x0, start, end), target)
        return loss, {self.name: loss.detach()}

    def _end(self, seen: SamplesSeen, factors: Callable[[Tensor], Factors]) -> Factors:
        """At the step's next time, or of the clean image."""
        following = (self.distill.student.times or ())[seen.microbatch.step_index + 1 :]
        if following:
            return factors(seen.x0.new_tensor(following[0]))
        return seen.x0.new_ones(()), seen.x0.new_zeros(())


def _factors_like(x_t: Tensor, schedule: Schedule) -> Callable[[Tensor], Factors]:
    return lambda t: (expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t))


def _step(x_t: Tensor, x0: Tensor, here: Factors, there: Factors) -> Tensor:
    """DDIM's, of the ODE (Song et al., 2020, arXiv 2010.02502, Eq. 12)."""
    (alpha, sigma), (next_alpha, next_sigma) = here, there
    ratio = next_sigma / sigma
    return ratio * x_t + (next_alpha - ratio * alpha) * x0
