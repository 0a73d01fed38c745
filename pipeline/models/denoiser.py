"""What a network is in this house: (x_t, t, condition) -> x0."""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.diffusion.noise import Schedule
from pipeline.models.latents import Latents


class Denoiser(nn.Module):
    """A network that predicts the clean image; teacher, student and critic all are one.

    Attributes:
        schedule: The noise process it was trained on.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None for an unconditional network; of a
            text-conditional one the number of its prompts.
        prompts: What the labels stand for, or None.
        latents: Where x0 is latents, what decodes them; else None.
    """

    schedule: Schedule
    shape: tuple[int, int, int]
    classes: int | None
    prompts: Sequence[str] | None = None
    latents: Latents | None = None

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict x0.

        Args:
            x_t: Noisy images, (B, C, H, W), float32 or float64.
            t: Times in the schedule's own unit, (B,) or (), same dtype.
            condition: Class labels, (B,) int64 in [0, classes), or None for no condition.

        Returns:
            x0, (B, C, H, W), in data units of about [-1, 1].
        """
        raise NotImplementedError

    def decode(self, x0: Tensor) -> Tensor:
        """Images to look at, (B, C, H, W) in about [-1, 1], of what `forward` predicts."""
        return x0
