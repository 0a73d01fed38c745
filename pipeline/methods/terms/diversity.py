"""The diversity term: of several steps the first goes where the teacher's ODE goes."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.terms import DiversityConfig
from pipeline.diffusion.losses import regression_loss
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.solver import euler
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms.term import NetworkCalls, Space, Term
from pipeline.utils.errors import UserError
from pipeline.utils.fields import Branch


@dataclass(frozen=True)
class Way:
    """Times of the teacher's ODE, (anchor + 1,) float64, on the host: its solver reads them."""

    times: Tensor

    def to(self, device: torch.device) -> "Way":
        """The same: it stays."""
        return self


@dataclass(frozen=True)
class Diversity(Term[DiversityConfig]):
    r"""Squared distance of the first step's x0 to the one that leads to a point of the ODE.

    From the student's noise the teacher comes to z at time s, in `anchor` of `steps` steps. The
    target is the x0 whose one step of DDIM from the student's input x_T, at its first time T, comes
    there too: z = alpha_s x0 + sigma_s (x_T - alpha_T x0) / sigma_T. For rectified flow with T = 1
    this is the source's loss on the velocity, |v - (x_T - z) / (1 - s)|^2.

    Source: DP-DMD (Wu et al., 2026), arXiv 2602.03139, and its authors' code.
    """

    Settings: ClassVar[type[Branch]] = DiversityConfig
    alone_at: ClassVar[int | None] = 0

    @property
    def weight(self) -> float:
        """In the third phase."""
        return self.settings.weight

    @property
    def start(self) -> float:
        """The student's first time."""
        assert self.distill.student.times is not None
        return self.distill.student.times[0]

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """Of the teacher, one a step of its ODE."""
        rows = self.distill.batch_size if self.name in plan.on_samples else 0
        return NetworkCalls(teacher=guided * rows * self.settings.anchor)

    def way(self, schedule: Schedule) -> Tensor:
        """The teacher's times down to the anchor, (anchor + 1,) float64.

        Raises:
            UserError: If it cannot take so many steps, or is not past the student's first time.
        """
        setting, own = f"distill.terms.{self.name}", self.settings
        try:
            times = schedule.times(own.steps)[: own.anchor + 1]
        except ValueError as error:
            raise UserError(f"{setting}.steps: {own.steps}, but {error}; set fewer") from error
        if times[-1] >= self.start:
            raise UserError(
                f"{setting}.anchor: after {own.anchor} of {own.steps} steps the teacher is at time "
                f"{times[-1]:g}, not past the student's first ({self.start:g}); give more"
            )
        return times

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """The way at the size of the samples."""
        return replace(
            microbatch, draws={**microbatch.draws, self.name: Way(self.way(space.schedule))}
        )

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over samples and pixels."""
        loss = regression_loss(seen.x0, self.target(seen))
        return loss, {self.name: loss.detach()}

    @torch.no_grad()
    def target(self, seen: SamplesSeen) -> Tensor:
        """The x0 that leads to the anchor, (B, C, H, W)."""
        noise, condition = seen.microbatch.noise, seen.microbatch.condition
        schedule, times = seen.schedule, seen.microbatch.draws[self.name].times
        anchor = euler(lambda x_t, t: seen.teacher(x_t, t, condition), noise, schedule, times)
        here, there = times.new_tensor(self.start), times[-1]
        ratio = (schedule.sigma(there) / schedule.sigma(here)).item()
        share = (schedule.alpha(there) - schedule.alpha(here) * ratio).item()
        x_t = schedule.init_noise_sigma(here).item() * noise
        return (anchor - ratio * x_t) / share
