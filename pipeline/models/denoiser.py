"""What a network is in this house: (x_t, t, condition) -> x0."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.diffusion import guidance
from pipeline.diffusion.buckets import Buckets, Shape
from pipeline.diffusion.condition import Condition, Conditioner, Inputs
from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.vae import VAE
from pipeline.models.views import view
from pipeline.utils.errors import UserError


class Denoiser(nn.Module):
    """A network that predicts the clean image; teacher, student and critic all are one.

    Attributes:
        schedule: The noise process it was trained on.
        shape: One sample, (C, *space): an image (C, H, W), or a video (C, F, H, W).
        conditioner: Makes its conditions from labels.
        latents: Where x0 is latents, what decodes them; else None.
        guidance_norm: Whether guidance keeps norms by default, if its pipeline leaves the choice;
            None: it leaves none.
        own_sampler: How it goes from noise to images as a student of a few steps, or None.
        own_buckets: The shapes that it learns at, where settings name them; else None.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    conditioner: Conditioner
    latents: VAE | None = None
    guidance_norm: bool | None = None
    own_sampler: FewStepSampler | None = None
    own_buckets: Buckets | None = None

    @property
    def buckets(self) -> Buckets:
        """The shapes that it learns at: its own one, unless settings name others."""
        return self.own_buckets or Buckets.one(self.shape)

    @property
    def classes(self) -> int | None:
        """Number of class labels or prompts; None for a network that has none."""
        return self.conditioner.classes

    @property
    def prompts(self) -> Sequence[str] | None:
        """What the labels stand for, where that is text."""
        return self.conditioner.prompts

    @property
    def sampler(self) -> FewStepSampler:
        """How it goes from noise to images as a student: in one step from the noisiest time."""
        return self.own_sampler or FewStepSampler(self.schedule, (self.schedule.start,))

    def with_sampler(self, sampler: FewStepSampler | None) -> Self:
        """The same weights told how they go from noise to images as a student."""
        told = view(self, {})
        told.own_sampler = sampler
        return told

    def at(self, shape: Shape) -> Self:
        """The same weights for samples of another shape.

        Its schedule may be another: then other times are drawn and solved at, and the noise at a
        time is the same.
        """
        assert shape == self.shape, f"its samples are {self.shape} alone, not {shape}"
        return self

    def with_conditioner(self, conditioner: Conditioner) -> Self:
        """The same weights with conditions from elsewhere."""
        told = view(self, {})
        told.conditioner = conditioner
        return told

    @property
    def pixels(self) -> tuple[int, ...]:
        """Shape of what `decode` gives, an image (C, H, W) or a video (C, F, H, W)."""
        return self.shape if self.latents is None else self.latents.pixels(self.shape)

    @property
    def frozen_parts(self) -> list[nn.Module]:
        """Networks that all copies share and that never learn: VAE and text encoders."""
        return []

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict x0.

        Args:
            x_t: Noisy images, (B, C, H, W), float32 or float64.
            t: Times in the schedule's own unit, (B,) or (), same dtype.
            condition: Of every sample, from its `conditioner`.

        Returns:
            x0, (B, C, H, W), in data units of about [-1, 1].
        """
        raise NotImplementedError

    def error_weight(self, t: Tensor) -> Tensor:
        """Weight of x0's squared error at times t that makes it that of the output, shape of t."""
        raise NotImplementedError

    def guided(
        self,
        uncond: Tensor,
        cond: Tensor,
        scale: float | Tensor,
        x_t: Tensor,
        t: Tensor,
        norm: bool | None = None,
    ) -> Tensor:
        """x0 under guidance, as the family has it.

        Args:
            uncond, cond: x0 without and with the condition, each (B, C, H, W).
            scale: Of guidance, as in `pairs.guidance`; or of each sample, (B, 1, 1, 1).
            x_t, t: What they were predicted from, (B, C, H, W) and (B,).
            norm: As in `pairs.guidance_norm`; None: as `guidance_norm`.
        """
        x0 = guidance.guided(uncond, cond, scale)
        keeps = self.guidance_norm if norm is None else norm
        return self.with_norm(x0, cond, x_t, t) if keeps else x0

    def with_norm(self, x0: Tensor, cond: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Guided x0 with the norm that it has without guidance, where the pipeline keeps it.

        Args:
            x0, cond: Under guidance, and with the condition alone, each (B, C, H, W).
            x_t, t: What they were predicted from, (B, C, H, W) and (B,).
        """
        raise NotImplementedError

    def guidance_scale(self, wanted: Guidance, t: Tensor, times: Tensor | None) -> float | Tensor:
        """Scale of guidance at times t (B,): one for all, or (B,) of them; 1 is no guidance.

        Args:
            wanted: The settings.
            t: The times.
            times: All of a solver, or None in training.
        """
        scale: float | Tensor = wanted.scale
        if wanted.second is not None:
            first = torch.full_like(t, wanted.scale)
            scale = torch.where(self.second_guided(t), wanted.second, first)
        if wanted.until < 1:
            end = self.guidance_end(wanted.until, times)
            scale = torch.where(t > end, scale, torch.ones_like(t))
        return scale

    def second_guided(self, t: Tensor) -> Tensor:
        """Which of times t (B,) have the scale `pairs.guidance_2`: those of its second network.

        Raises:
            UserError: If it has none.
        """
        raise UserError("pairs.guidance_2: the teacher has no second network; give null")

    def guidance_end(self, until: float, times: Tensor | None) -> float:
        """Time down to which there is guidance.

        Of a solver as many of the first steps are guided as fit into their share; where there
        are none, it is the share of `Schedule.time_from_fraction`.

        Args:
            until: Share of the way from noise to image.
            times: Of a solver, (steps + 1,), or None.
        """
        if times is None:
            share = torch.tensor(1 - until, dtype=torch.float64)
            return float(self.schedule.time_from_fraction(share))
        steps = int(until * (len(times) - 1) + 1e-6)
        return float(times[steps - 1 : steps + 1].mean()) if steps else math.inf

    def decode(self, x0: Tensor) -> Tensor:
        """Images to look at, (B, C, H, W) in about [-1, 1], of what `forward` predicts."""
        return x0


def blank(network: Denoiser, count: int) -> Inputs:
    """Inputs of zeros, x_t (count, C, H, W) at the schedule's first time, where the network is."""
    weight = next(network.parameters())
    labels = None
    if network.classes is not None:
        labels = torch.zeros(count, dtype=torch.int64)
    condition = network.conditioner(labels, count, weight.device)
    x_t = weight.new_zeros((count, *network.shape))
    return Inputs(x_t, weight.new_full((count,), network.schedule.start), condition)
