"""What a network is in this house: (x_t, t, condition) -> x0."""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.vae import VAE


class Denoiser(nn.Module):
    """A network that predicts the clean image; teacher, student and critic all are one.

    Attributes:
        schedule: The noise process it was trained on.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None for an unconditional network; of a
            text-conditional one the number of its prompts.
        prompts: What the labels stand for, or None.
        latents: Where x0 is latents, what decodes them; else None.
        unconditional: Whether it knows no condition too: the label -1, or no labels at all.
        few: How it goes from noise to images as a student of a few steps, or None.
    """

    schedule: Schedule
    shape: tuple[int, int, int]
    classes: int | None
    prompts: Sequence[str] | None = None
    latents: VAE | None = None
    unconditional: bool = False
    own_sampler: FewStepSampler | None = None

    @property
    def steps(self) -> FewStepSampler:
        """How it goes from noise to images as a student: in one step from the noisiest time."""
        return self.own_sampler or FewStepSampler(self.schedule, (self.schedule.start,))

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Channels, height and width of an image to look at, as `decode` gives it."""
        if self.latents is None:
            return self.shape
        return 3, self.shape[1] * self.latents.factor, self.shape[2] * self.latents.factor

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict x0.

        Args:
            x_t: Noisy images, (B, C, H, W), float32 or float64.
            t: Times in the schedule's own unit, (B,) or (), same dtype.
            condition: Class labels, (B,) int64 in [0, classes), or None for no condition; -1 for
                none in one row, if `unconditional`.

        Returns:
            x0, (B, C, H, W), in data units of about [-1, 1].
        """
        raise NotImplementedError

    def decode(self, x0: Tensor) -> Tensor:
        """Images to look at, (B, C, H, W) in about [-1, 1], of what `forward` predicts."""
        return x0
