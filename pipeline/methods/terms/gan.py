"""The adversarial part of the method: the critic also tells samples from real images."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.diffusion.adversarial import (
    DIVERGENCES,
    discriminator_loss,
    ratio_weights,
    smoothness_loss,
)
from pipeline.diffusion.noise import Schedule
from pipeline.methods.microbatch import Microbatch
from pipeline.models.denoiser import Inputs

NEARBY = 0.01
"""Distance of the neighbours that the discriminator shall judge alike (arXiv 2501.08316)."""


@dataclass(frozen=True)
class GAN:
    """What the discriminator is for, and how it learns.

    Args:
        student_weight, critic_weight: Of the losses.
        divergence: What the matching loss lessens, by the weights that follow from the logits.
        smoothness: Weight of the approximate R1 loss; 0 leaves it out.
        range: Ends of the times of its own draws, as fractions of `Schedule.time_from_fraction`.
    """

    student_weight: float
    critic_weight: float
    divergence: str = "reverse-kl"
    smoothness: float = 0.0
    range: tuple[float, float] = (0.0, 1.0)

    @property
    def weighs(self) -> bool:
        """Whether the matching loss needs the logits."""
        return DIVERGENCES[self.divergence] is not None

    def weigh(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Matching losses (B,) under the divergence, by the logits (B, heads) of their samples."""
        weights = ratio_weights(logits, self.divergence)
        return losses if weights is None else weights * losses

    def inputs(self, microbatch: Microbatch, samples: Tensor, schedule: Schedule) -> Inputs:
        """What the discriminator sees beside the samples that the critic denoises.

        The samples diffused once more if the draws are separate, then the real images, then their
        neighbours if there is a smoothness.
        """
        assert microbatch.real is not None
        real, parts = microbatch.real, list[Inputs]()
        if (noise_sample := microbatch.discriminator_noise) is not None:
            x_t = noise_sample.add_noise(samples, schedule)
            parts.append(Inputs(x_t, noise_sample.t, microbatch.condition))
        x_t, t = real.noise_sample.add_noise(real.images, schedule), real.noise_sample.t
        parts.append(Inputs(x_t, t, real.condition))
        if self.smoothness:
            parts.append(Inputs(x_t + NEARBY * real.shift, t, real.condition))
        return Inputs.cat(parts)

    def loss(self, microbatch: Microbatch, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's, of the logits of its samples and of `rows`; and what to log.

        Returns:
            The weighted loss, (), and detached scalars.
        """
        own, *parts = logits.split(len(microbatch.noise))
        fake = own if microbatch.discriminator_noise is None else parts.pop(0)
        real = parts.pop(0)
        loss = discriminator_loss(fake, real)
        log = {
            "gan_critic": loss.detach(),
            "gan_accuracy": 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean()),
        }
        if self.smoothness:
            uneven = smoothness_loss(real, parts.pop(0), NEARBY)
            log["gan_smoothness"] = uneven.detach()
            loss = loss + self.smoothness * uneven
        return self.critic_weight * loss, log
