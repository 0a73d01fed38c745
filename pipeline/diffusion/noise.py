r"""Noise schedules: how much of the image and how much noise there is at time t.

Every schedule speaks of the same process,

    x_t = alpha(t) * x0 + sigma(t) * eps,    eps ~ N(0, I),

and of the same probability-flow ODE, written in the coordinates y = x_t / scale(t) and
s = sigma(t) / scale(t), where it is dy/ds = (y - x0) / s for each of them.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


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

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error of x0 that makes it the error of the network's output."""

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        """Time at a fraction of the way from the cleanest (0) to the noisiest (1) time."""

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


def _check(steps: int, spacing: str, known: tuple[str, ...]) -> None:
    if steps < 1:
        raise ValueError(f"a solver needs at least one step, got {steps}")
    if spacing not in known:
        raise ValueError(f"unknown spacing {spacing!r}; this schedule knows {', '.join(known)}")


@dataclass(frozen=True)
class EDM:
    """x_t = x0 + t eps: time is sigma itself (Karras et al., 2022, arXiv 2206.00364, Table 1).

    Args:
        sigma_min, sigma_max: Ends of the noise range, in data units.
        sigma_data: Standard deviation of the data, for the preconditioning and loss weight.
        rho: Exponent of the Karras spacing.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0

    @property
    def start(self) -> float:
        return self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def init_noise_sigma(self, t: Tensor) -> Tensor:
        return t

    def solver_sigma(self, t: Tensor) -> Tensor:
        return t

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def weight(self, t: Tensor) -> Tensor:
        """1/sigma^2 + 1/sigma_data^2: Karras et al., Table 1."""
        return t**-2 + self.sigma_data**-2

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        """Karras spacing, Eq. 5: t^(1/rho) is linear in the fraction."""
        low: float = self.sigma_min ** (1 / self.rho)
        high: float = self.sigma_max ** (1 / self.rho)
        return (low + fraction * (high - low)) ** self.rho

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        _check(steps, spacing or "karras", ("karras",))
        times = self.time_from_fraction(torch.linspace(1, 0, steps, dtype=torch.float64))
        return torch.cat([times, times.new_zeros(1)])


_SPACINGS = ("leading", "trailing", "linspace", "rounded")
_MULTISTEP = ("multistep-leading", "multistep-linspace")


@dataclass(frozen=True, eq=False)
class VP:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps over a table of training steps (DDPM, SD).

    Times are positions in the table, 0 to T - 1. Between two of them sigma/alpha is linear, as
    in diffusers' EulerDiscreteScheduler; time -1 is the clean image (abar = 1).

    Args:
        alphas_cumprod: Table abar, (T,), descending in [0, 1]; 0 at its end alone (zero terminal
            SNR), where x_t is noise and nothing else.
        spacing: Spacing of `times`: "leading", "trailing" or "linspace"
            (Lin et al., 2023, arXiv 2305.08891, Table 2); "rounded" is "linspace" at whole
            times; with "multistep-" before "leading" or "linspace", that of diffusers'
            DPMSolverMultistepScheduler, which makes one time more and leaves out the cleanest.
        steps_offset: Added to the times of the "leading" spacing (SD: 1).
        clean_end: Whether the last step ends at the clean image or at abar[0]
            (diffusers' `set_alpha_to_one`).
        starts_at_prior: Whether a solver starts from noise of variance 1, or of sigma(t)^2.

    Source: Ho et al., 2020, arXiv 2006.11239, Eq. 4.
    """

    alphas_cumprod: Tensor
    spacing: str = "leading"
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

    def _ratio(self, t: Tensor) -> Tensor:
        table = self.alphas_cumprod.to(t.device, torch.float64)
        ratios = torch.cat([table.new_zeros(1), ((1 - table) / table).sqrt()])
        position = t.double().clamp(-1, self.start) + 1
        below = position.floor().long()
        between = torch.lerp(ratios[below], ratios[position.ceil().long()], position - below)
        return torch.where(position == below, ratios[below], between)

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

    def weight(self, t: Tensor) -> Tensor:
        """alpha^2/sigma^2, the signal-to-noise ratio: the error of eps."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        """The table position nearest to the fraction: discrete models know no other times."""
        return (fraction * self.start).round()

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        spacing = spacing or self.spacing
        _check(steps, spacing, (*_SPACINGS, *_MULTISTEP))
        total, more = len(self.alphas_cumprod), steps + (spacing in _MULTISTEP)
        if spacing.endswith("leading"):
            times = torch.arange(more).flip(0) * (total // more) + self.steps_offset
        elif spacing == "trailing":
            times = (total - torch.arange(steps, dtype=torch.float64) * total / steps).round() - 1
        else:
            times = torch.linspace(total - 1, 0, more, dtype=torch.float64)
        if spacing in _MULTISTEP:
            times = times[:-1]
        if spacing in (*_MULTISTEP, "rounded"):
            times = times.round()
        if steps > total or times[0] >= total:
            raise ValueError(
                f"{steps} steps with offset {self.steps_offset} do not fit a table of {total}"
            )
        end = -1.0 if self.clean_end else 0.0
        return torch.cat([times.double(), torch.tensor([end], dtype=torch.float64)])


@dataclass(frozen=True)
class Flow:
    """x_t = (1 - t) x0 + t eps: rectified flow with a shifted spacing (SD3, Flux).

    Args:
        shift: Resolution shift of the spacing, t = shift u / (1 + (shift - 1) u).
        steps_table: Number of training steps N.
        spacing: Spacing of `times`. "linspace" (SD3) runs from 1 to the shifted 1/N and is then
            shifted once more; "once" (SD3 with a shift that follows the size) shifts 1 to 1/N;
            "trailing" (Flux) shifts 1 to 1/steps; "multistep" (SANA's
            DPMSolverMultistepScheduler) shifts 1 - 1/N to 0 and leaves out the last.

    Source: Esser et al., 2024, arXiv 2403.03206, Eq. 23.
    """

    shift: float = 1.0
    steps_table: int = 1000
    spacing: str = "linspace"

    @property
    def start(self) -> float:
        return 1.0

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

    def weight(self, t: Tensor) -> Tensor:
        """1/sigma^2: the error of the velocity."""
        return t**-2

    def time_from_fraction(self, fraction: Tensor) -> Tensor:
        return self.shift * fraction / (1 + (self.shift - 1) * fraction)

    def times(self, steps: int, spacing: str | None = None) -> Tensor:
        spacing = spacing or self.spacing
        _check(steps, spacing, ("linspace", "trailing", "once", "multistep"))
        if spacing in ("trailing", "multistep"):
            first = 1 if spacing == "trailing" else 1 - 1 / self.steps_table
            fractions = torch.linspace(first, 0, steps + 1, dtype=torch.float64)[:-1]
        else:
            last = torch.tensor(1 / self.steps_table, dtype=torch.float64)
            if spacing == "linspace":
                last = self.time_from_fraction(last)
            fractions = torch.linspace(1, last.item(), steps, dtype=torch.float64)
        return torch.cat([self.time_from_fraction(fractions), fractions.new_zeros(1)])
