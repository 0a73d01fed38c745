"""The student's way from noise to image: one call, or a few."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pipeline.diffusion import seeds
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Schedule, diffuse, expand

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""A network as samplers and losses call it: (x_t, t, condition) -> x0."""


class GuidedDenoise(Protocol):
    """A frozen teacher under its guidance, as losses call it."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """x0 under guidance, (B, C, H, W)."""

    def conditional(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x0 without guidance, (B, C, H, W)."""

    def both(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """x0 under guidance and without, (B, C, H, W) each, of one call."""


@dataclass(frozen=True)
class FewStepSampler:
    """The times at which a student is asked, and what happens between two of them.

    Args:
        schedule: Of the student.
        timesteps: Descending, in the schedule's own unit; one for a one-step student.
        renoise: Whether x0 is diffused to the next time with fresh noise; else with the noise
            that the student saw in its input, as a step of DDIM.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Section 3.1; DMD2 (Yin et al., 2024),
    arXiv 2405.14867, Section 4.4.
    """

    schedule: Schedule
    timesteps: tuple[float, ...]
    renoise: bool = True

    def images(self, student: Denoise, noise: Tensor, condition: Condition) -> Tensor:
        """What the student makes of unit-variance noise.

        Args:
            student: A denoiser, wrapped or bare; gradients flow if enabled.
            noise: (B, C, H, W), on its device.
            condition: Of every sample.

        Returns:
            x0 at the last time, same shape as the noise, in about [-1, 1].
        """
        last = len(self.timesteps) - 1
        return student(
            self.input(student, noise, condition, last), self.time(last, noise), condition
        )

    def input(self, student: Denoise, noise: Tensor, condition: Condition, step: int) -> Tensor:
        """x_t at the times' position `step`, made by the student itself; other arguments as above.

        The fresh noise of later steps follows from each sample's first noise, so that its image
        is the same in any batch.
        """
        t = self.time(0, noise)
        x_t = self.schedule.init_noise_sigma(t[0]) * noise
        for number in range(step):
            x0, after = student(x_t, t, condition), self.time(number + 1, noise)
            if self.renoise:
                eps = seeds.renewed(noise, number)
            else:
                alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
                eps = (x_t - expand(alpha, x_t) * x0) / expand(sigma, x_t)
            x_t, t = diffuse(x0, eps, after, self.schedule), after
        return x_t

    def time(self, step: int, like: Tensor) -> Tensor:
        """The time at a position for every row, (B,)."""
        return like.new_full((len(like),), self.timesteps[step])
