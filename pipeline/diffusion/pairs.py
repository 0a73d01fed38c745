"""Pairs in memory: noise, and what the teacher makes of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.devices import moved


@dataclass(frozen=True)
class PairBatch:
    """Noise and what the teacher makes of it.

    Attributes:
        ids: Sample ids, (B,) int64.
        labels: Class labels, (B,) int64, or None for an unconditional teacher.
        noise: Unit-variance noise, (B, C, H, W), float32 (float16 straight from a shard).
        images: The teacher's images from that noise, same shape and dtype, in about [-1, 1].
    """

    ids: Tensor
    labels: Tensor | None
    noise: Tensor
    images: Tensor

    def rows(self, rows: Tensor | slice) -> "PairBatch":
        """The pairs at these positions; a slice gives views."""
        labels = None if self.labels is None else self.labels[rows]
        return PairBatch(self.ids[rows], labels, self.noise[rows], self.images[rows])

    def to(self, device: torch.device) -> "PairBatch":
        """The same pairs on a device."""
        labels = None if self.labels is None else moved(self.labels, device)
        ids, noise, images = (moved(each, device) for each in (self.ids, self.noise, self.images))
        return PairBatch(ids, labels, noise, images)

    def float(self) -> "PairBatch":
        """The same pairs with noise and images in float32."""
        return PairBatch(self.ids, self.labels, self.noise.float(), self.images.float())
