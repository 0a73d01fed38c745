r"""Noise schedules: how much of the image and how much noise there is at time t.

Every schedule speaks of the same process,

    x_t = alpha(t) * x0 + sigma(t) * eps,    eps ~ N(0, I),

and of the same probability-flow ODE, written in the coordinates y = x_t / scale(t) and
s = sigma(t) / scale(t), where it is dy/ds = (y - x0) / s for each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pipeline.diffusion.spacing import OwnSteps, check, in_flow, in_table


class Schedule(Protocol):
    """The noise process of one diffusion model.

    Times are the model's own: sigma for `EDM`, a position in the table of training steps for
    `VP`, the share of noise in [0, 1] for `Flow`. Larger times are noisier. Every method takes
    and returns tensors of any one shape, float32 or float64.
    """

    @property
    def start(self) -> float:
        """The noisiest time: sampling starts here and a one-step student is called here."""

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the clean image at time t."""

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time t."""

    def init_noise_sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise a student is given where it starts, at time t."""

    def solver_sigma(self, t: Tensor) -> Tensor:
        """As `init_noise_sigma`, for a solver of the teacher."""

    def scale(self, t: Tensor) -> Tensor:
        """Factor that takes x_t to the coordinates of the ODE, y = x_t / scale."""

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        """Time at a fraction of the way from the cleanest (0) to the noisiest (1) time."""

    def fraction_from_time(self, t: Tensor) -> Tensor:
        """The inverse of `time_from_fraction`."""

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        """Descending times of a solver, (steps + 1,) float64, from the start to the clean end.

        Raises:
            ValueError: If this schedule does not know the spacing, or cannot make the steps.
        """


def expand(t: Tensor, like: Tensor) -> Tensor:
    """View a per-sample (B,) or scalar tensor so that it broadcasts over `like`, (B, ...)."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


def diffuse(x0: Tensor, eps: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """x_t = alpha(t) x0 + sigma(t) eps, for x0 and eps (B, ...) and times t (B,) or ()."""
    return expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps


@dataclass(frozen=True)
class EDM:
    """x_t = x0 + t eps: time is sigma itself (Karras et al., 2022, arXiv 2206.00364, Table 1).

    Args:
        sigma_min, sigma_max: Ends of the noise range, in data units.
        sigma_data: Standard deviation of the data, for the preconditioning.
        rho: Exponent of the Karras spacing.
        spacing: Of `times`: "karras", or a sampler's own.
        image_variance: Put on t^2 in the first noise, as if there were an image in it (diffusers'
            pipelines on latents: 1).
        starts_at_prior: Whether a solver puts it there too.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    spacing: str | OwnSteps = "karras"
    image_variance: float = 0.0
    starts_at_prior: bool = True

    @property
    def start(self) -> float:
        return self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def init_noise_sigma(self, t: Tensor) -> Tensor:
        return (t**2 + self.image_variance).sqrt() if self.image_variance else t

    def solver_sigma(self, t: Tensor) -> Tensor:
        return self.init_noise_sigma(t) if self.starts_at_prior else t

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        """Karras spacing, Eq. 5: t^(1/rho) is linear in the fraction."""
        low, high = self._roots
        return (low + fraction * (high - low)) ** self.rho

    def fraction_from_time(self, t: Tensor) -> Tensor:
        low, high = self._roots
        return (t ** (1 / self.rho) - low) / (high - low)

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        chosen = spacing or self.spacing
        if isinstance(chosen, OwnSteps):
            return chosen.levels(steps)[1]
        check(steps, chosen, ("karras",))
        times = self.time_from_fraction(torch.linspace(1, 0, steps, dtype=torch.float64))
        return torch.cat([times, times.new_zeros(1)])


@dataclass(frozen=True, eq=False)
class VP:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps over a table of training steps (DDPM, SD).

    Times are positions in the table, 0 to T - 1. Between two of them sigma/alpha is linear, as
    in diffusers' EulerDiscreteScheduler, or its logarithm is, for a sampler that chooses levels of
    noise; time -1 is the clean image (abar = 1).

    Args:
        alphas_cumprod: Table abar, (T,), descending in [0, 1]; 0 at its end alone (zero terminal
            SNR), where x_t is noise and nothing else.
        spacing: Spacing of `times`: "leading", "trailing" or "linspace"
            (Lin et al., 2023, arXiv 2305.08891, Table 2); "rounded" is "linspace" at whole
            times; with "multistep-" before "leading" or "linspace", that of diffusers'
            DPMSolverMultistepScheduler, which makes one time more and leaves out the cleanest; or a
            sampler's own.
        steps_offset: Added to the times of the "leading" spacing (SD: 1).
        clean_end: Whether the last step ends at the clean image or at abar[0]
            (diffusers' `set_alpha_to_one`).
        starts_at_prior: Whether a solver starts from noise of variance 1, or of sigma(t)^2.

    Source: Ho et al., 2020, arXiv 2006.11239, Eq. 4.
    """

    alphas_cumprod: Tensor
    spacing: str | OwnSteps = "leading"
    steps_offset: int = 0
    clean_end: bool = True
    starts_at_prior: bool = True

    @property
    def start(self) -> float:
        return len(self.alphas_cumprod) - 1

    def until(self, time: int) -> "VP":
        """The same process from an earlier start, 0 to T - 1.

        Raises:
            ValueError: If the table has no such time.
        """
        if not 0 <= time <= self.start:
            raise ValueError(f"there is no time {time} in a table of {len(self.alphas_cumprod)}")
        return replace(self, alphas_cumprod=self.alphas_cumprod[: time + 1])

    def told(self, t: Tensor) -> Tensor:
        """The time that the network is told at times t: another where a sampler rounds it."""
        return self.spacing.told(t) if isinstance(self.spacing, OwnSteps) else t

    def _ratios(self, device: torch.device) -> Tensor:
        """sigma / alpha at -1, 0, 1, ..., (T + 1,)."""
        table = self.alphas_cumprod.to(device, torch.float64)
        return torch.cat([table.new_zeros(1), ((1 - table) / table).sqrt()])

    def _ratio(self, t: Tensor) -> Tensor:
        ratios = self._ratios(t.device)
        position = t.double().clamp(-1, self.start) + 1
        below = position.floor().long()
        low, high, share = ratios[below], ratios[position.ceil().long()], position - below
        if isinstance(self.spacing, OwnSteps):
            between = low ** (1 - share) * high**share
        else:
            between = torch.lerp(low, high, share)
        return torch.where(position == below, low, between)

    def _position(self, ratio: Tensor) -> Tensor:
        """The inverse of `_ratio` for a sampler's own steps; -1 for the clean end, 0."""
        levels, wanted = self._ratios(ratio.device)[1:].log(), ratio.log()
        below = (torch.searchsorted(levels, wanted, right=True) - 1).clamp(0, len(levels) - 2)
        share = (wanted - levels[below]) / (levels[below + 1] - levels[below])
        return torch.where(ratio > 0, below + share.clamp(0, 1), -1.0)

    def alpha(self, t: Tensor) -> Tensor:
        return (1 + self._ratio(t) ** 2).rsqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (1 + self._ratio(t) ** -2).rsqrt().to(t.dtype)

    def init_noise_sigma(self, t: Tensor) -> Tensor:
        """1: the prior, which sigma(t) only comes near; as diffusers' `init_noise_sigma`."""
        return torch.ones_like(t)

    def solver_sigma(self, t: Tensor) -> Tensor:
        return self.init_noise_sigma(t) if self.starts_at_prior else self.sigma(t)

    def scale(self, t: Tensor) -> Tensor:
        """alpha, and 2^-12 where that is 0: the coordinates have no such point."""
        return self.alpha(t).clamp(min=2.0**-12)

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        """The table position nearest to the fraction: discrete models know no other times."""
        return (fraction * self.start).round()

    def fraction_from_time(self, t: Tensor) -> Tensor:
        return t / self.start

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        chosen = spacing or self.spacing
        if isinstance(chosen, OwnSteps):
            told, ratios = chosen.levels(steps)
            positions = self._position(ratios)
            return torch.cat([chosen.times(positions[:-1], told), positions[-1:]])
        times = in_table(chosen, steps, len(self.alphas_cumprod), self.steps_offset)
        return torch.cat([times, times.new_tensor([-1.0 if self.clean_end else 0.0])])


@dataclass(frozen=True)
class Flow:
    """x_t = (1 - t) x0 + t eps: rectified flow with a shifted spacing (SD3, Flux).

    Args:
        shift: Resolution shift of the spacing, t = shift u / (1 + (shift - 1) u).
        steps_table: Number of training steps N.
        spacing: Spacing of `times`. "linspace" (SD3) runs from 1 to the shifted 1/N and is then
            shifted once more; "once" (SD3 with a shift that follows the size) shifts 1 to 1/N;
            "whole" (CogView4) is that in whole training times; "trailing" (Flux) shifts 1 to
            1/steps; "multistep" (SANA's DPMSolverMultistepScheduler) shifts 1 - 1/N to 0 and
            leaves out the last; "unipc" (Wan's UniPCMultistepScheduler) shifts 1 to 1/N, and leaves
            out the last; "unipc-trailing" is "trailing" told to that one.
        respaced: What a sampler makes of these times, (steps,) -> (steps,); None: nothing.

    Source: Esser et al., 2024, arXiv 2403.03206, Eq. 23.
    """

    shift: float = 1.0
    steps_table: int = 1000
    spacing: str = "linspace"
    respaced: Callable[[Tensor], Tensor] | None = None

    @property
    def start(self) -> float:
        return 1.0

    @property
    def whole(self) -> bool:
        """Whether its sampler tells its network whole training times, cut off."""
        return self.spacing in ("multistep", "unipc", "unipc-trailing")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def init_noise_sigma(self, t: Tensor) -> Tensor:
        """1: the prior, also where a spacing starts a little below it."""
        return torch.ones_like(t)

    def solver_sigma(self, t: Tensor) -> Tensor:
        return self.init_noise_sigma(t)

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        return self.shift * fraction / (1 + (self.shift - 1) * fraction)

    def fraction_from_time(self, t: Tensor) -> Tensor:
        return t / (self.shift - (self.shift - 1) * t)

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        chosen = spacing or self.spacing
        times = in_flow(chosen, steps, self.steps_table, self.time_from_fraction)
        times = self.respaced(times) if self.respaced else times
        return torch.cat([times, times.new_zeros(1)])
