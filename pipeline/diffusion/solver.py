r"""Deterministic samplers: from noise to an image along the probability-flow ODE.

All of them take the one step of DDIM,

    x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) x0,

which is exact while x0 stands still; they differ only in the x0 they take it with. A higher
order averages or extrapolates x0 itself, or the slope dy/ds = (x - scale x0) / sigma of the ODE in
the coordinates y = x / scale, s = sigma / scale (see `pipeline.diffusion.noise`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.diffusion.noise import Schedule

PredictX0 = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t ()) -> x0 (B, ...); the time has the dtype and device of x_t."""

Solve = Callable[[PredictX0, Tensor, Schedule, Tensor], Tensor]
"""(denoise, noise, schedule, times) -> x0, as `euler`."""


@dataclass(frozen=True)
class Solver:
    """A deterministic sampler and what it costs.

    Args:
        solve: From noise to images.
        evaluations: Network evaluations of so many steps, for times that end at sigma 0.
    """

    solve: Solve
    evaluations: Callable[[int], int]

    def __call__(
        self, denoise: PredictX0, noise: Tensor, schedule: Schedule, times: Tensor
    ) -> Tensor:
        """See `euler`."""
        return self.solve(denoise, noise, schedule, times)


@dataclass(frozen=True)
class _Level:
    """One point of the way: its time as the network takes it, and its factors as floats.

    `snr` is log(alpha / sigma), the lambda of DPM-Solver; infinite at a clean or a blank end.
    """

    t: Tensor
    alpha: float
    sigma: float
    scale: float
    snr: float


_Guess = Callable[[Tensor, _Level, _Level], Tensor]
"""(x_t, here, there) -> the x0 to go with from here to there."""


def _levels(schedule: Schedule, times: Tensor, like: Tensor) -> list[_Level]:
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a solver needs at least two times in a row, got shape {times.shape}")
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    factors = torch.stack([alpha, sigma, schedule.scale(times), (alpha / sigma).log()])
    rows = factors.T.tolist()
    return [_Level(t, *row) for t, row in zip(times.to(like).unbind(), rows, strict=True)]


def _step(x_t: Tensor, x0: Tensor, here: _Level, there: _Level) -> Tensor:
    """DDIM's step (Song et al., 2020, arXiv 2010.02502, Eq. 12); needs no division by alpha."""
    ratio = there.sigma / here.sigma
    return ratio * x_t + (there.alpha - here.alpha * ratio) * x0


def _slope(x_t: Tensor, x0: Tensor, here: _Level) -> Tensor:
    """dy/ds = (y - x0) / s, which is eps for EDM and VP and eps - x0 for flow matching."""
    return (x_t - here.scale * x0) / here.sigma


def _x0(x_t: Tensor, slope: Tensor, here: _Level) -> Tensor:
    """The inverse of `_slope`."""
    return (x_t - here.sigma * slope) / here.scale


def _solve(guess: _Guess, noise: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    levels = _levels(schedule, times, noise)
    x_t = schedule.solver_sigma(times[0]).item() * noise
    for here, there in pairwise(levels):
        x_t = _step(x_t, guess(x_t, here, there), here, there)
    return x_t


def euler(denoise: PredictX0, noise: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """Euler's method, which is DDIM: one evaluation a step, first order.

    Args:
        denoise: The network with its condition bound: (x_t, t) -> x0. It alone decides about
            gradients and guidance.
        noise: Unit-variance noise, (B, ...), float32 or float64: the solver works in its dtype and
            on its device. It starts at sigma(times[0]) * noise, without an image part.
        schedule: The noise process of the network.
        times: Descending times, (steps + 1,) float64, usually `schedule.times(steps)`.

    Returns:
        The sample at the last time, same shape and dtype as the noise; x0 where that time is the
        clean end.

    Raises:
        ValueError: If there are fewer than two times.

    Source: Song et al., 2020, arXiv 2010.02502, Eq. 12 with eta = 0.
    """

    def guess(x_t: Tensor, here: _Level, there: _Level) -> Tensor:
        return denoise(x_t, here.t)

    return _solve(guess, noise, schedule, times)


def _trapezium(denoise: PredictX0, x_t: Tensor, x0: Tensor, here: _Level, there: _Level) -> Tensor:
    """The x0 of the mean slope at both ends of a step; x0 itself for a step to sigma 0."""
    if there.sigma == 0:
        return x0
    x_next = _step(x_t, x0, here, there)
    slope_next = _slope(x_next, denoise(x_next, there.t), there)
    return _x0(x_t, (_slope(x_t, x0, here) + slope_next) / 2, here)


def heun(denoise: PredictX0, noise: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """Heun's method: two evaluations a step, one in a last step to sigma 0; second order.

    Arguments, result and errors as in `euler`.

    Source: EDM (Karras et al., 2022), arXiv 2206.00364, Algorithm 1, without its noise injection.
    """

    def guess(x_t: Tensor, here: _Level, there: _Level) -> Tensor:
        return _trapezium(denoise, x_t, denoise(x_t, here.t), here, there)

    return _solve(guess, noise, schedule, times)


def dpmpp_2m(denoise: PredictX0, noise: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """DPM-Solver++(2M): one evaluation a step, second order.

    x0 is extrapolated in lambda = log(alpha / sigma) to the middle of the step, from the last other
    lambda; the first step and a step to sigma 0 are of first order. Arguments, result and errors as
    in `euler`.

    Source: Lu et al., 2022, arXiv 2211.01095, Algorithm 2.
    """
    before: list[tuple[Tensor, _Level]] = []

    def guess(x_t: Tensor, here: _Level, there: _Level) -> Tensor:
        x0 = denoise(x_t, here.t)
        if not before or before[-1][1].snr != here.snr:  # rounded times may come twice
            before.append((x0, here))
            del before[:-2]
        if len(before) == 1 or there.sigma == 0:
            return x0
        x0_before, level = before[0]
        reach = (there.snr - here.snr) / (here.snr - level.snr)
        return x0 + reach / 2 * (x0 - x0_before)

    return _solve(guess, noise, schedule, times)


_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the newest and the older slopes, by their number."""


def plms(denoise: PredictX0, noise: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """PLMS: Adams-Bashforth of up to four slopes, one evaluation a step and one more.

    The first step is Heun's, so the second time is evaluated twice, as in diffusers'
    `PNDMScheduler(skip_prk_steps=True)`, the solver in Stable Diffusion's folders. Its
    weights are those of equal steps. Arguments, result and errors as in `euler`.

    Source: Liu et al., 2022, arXiv 2202.09778, Eq. 12, with the start of diffusers.
    """
    slopes: list[Tensor] = []

    def guess(x_t: Tensor, here: _Level, there: _Level) -> Tensor:
        x0 = denoise(x_t, here.t)
        slopes.insert(0, _slope(x_t, x0, here))
        del slopes[4:]
        if len(slopes) == 1:
            return _trapezium(denoise, x_t, x0, here, there)
        weights = _ADAMS_BASHFORTH[len(slopes) - 1]
        slope = sum((w * d for w, d in zip(weights, slopes, strict=True)), torch.zeros_like(x0))
        return _x0(x_t, slope, here)

    return _solve(guess, noise, schedule, times)


SOLVERS = {
    "euler": Solver(euler, lambda steps: steps),
    "heun": Solver(heun, lambda steps: 2 * steps - 1),
    "dpmpp_2m": Solver(dpmpp_2m, lambda steps: steps),
    "plms": Solver(plms, lambda steps: steps + (steps > 1)),
}
"""By the names of `pairs.solver`; a further one is a function and an entry here."""
