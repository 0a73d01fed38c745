"""The GAN term: the critic also tells samples from real images, and the student fools it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.config.terms import GANConfig
from pipeline.diffusion.adversarial import (
    DIVERGENCES,
    discriminator_loss,
    fool_loss,
    ratio_weights,
    smoothness_loss,
)
from pipeline.diffusion.condition import Inputs
from pipeline.diffusion.matching import mean_distance
from pipeline.diffusion.noise import Schedule
from pipeline.methods.microbatch import Microbatch, NoiseSample, Real, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms.term import CriticPass, Needs, NetworkCalls, Space, Term
from pipeline.utils.fields import Branch

NEARBY = {"fp32": 0.01, "bf16": 0.1}
"""Distance of the neighbours that the discriminator shall judge alike, of a precision.

The source (arXiv 2501.08316) has 0.01 for images and 0.1 for videos. In bf16 logits of inputs 0.01
apart differ by rounding more than by what they are.
"""


@dataclass(frozen=True)
class GAN(Term[GANConfig]):
    """The student's loss that fools the critic's heads, and the critic's that tells.

    With shared draws it judges what the matching and denoising losses diffused, in their passes.

    Source: DMD2 (Yin et al., 2024), arXiv 2405.14867, Section 4.3; the divergences are
    f-distill's (Xu et al., 2025), arXiv 2502.15681; heads that are the mean of the channels, with
    the scale of the student's loss, SiDA's (Zhou et al., 2024), arXiv 2410.14919.
    """

    Settings: ClassVar[type[Branch]] = GANConfig

    @property
    def active(self) -> bool:
        """Whether there are real images."""
        return self.settings.real is not None

    @property
    def weight(self) -> float:
        """Of the student's loss in the third phase."""
        return self.settings.student_weight

    def needs(self) -> Needs:
        """Real images, which may be the pairs', and heads that judge."""
        return Needs(pairs=self.settings.real == "pairs", real=True, heads=True)

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """The critic's up to the judged features, where no other loss's pass goes there."""
        rows, found = self.distill.batch_size, NetworkCalls()
        if self.name in plan.on_samples:
            joined = self._shared and "matching" in plan.on_samples
            found += NetworkCalls(features=0 if joined else rows, features_backward=rows)
        if plan.critic:
            batches = 1 + (not self._shared) + (self.settings.smoothness > 0)
            found += NetworkCalls(features=batches * rows, features_backward=batches * rows)
        return found

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """Where samples and real images are diffused to, and the neighbours' noise."""
        if space.real is None:
            return microbatch
        count = len(microbatch.noise)
        eps, shift, fool_eps, tell_eps = torch.randn(4, count, *space.shape, generator=rng)
        fool, tell = torch.rand(2, count, generator=rng)
        generator_noise = discriminator_noise = None
        if not self._shared:
            generator_noise, discriminator_noise = (
                space.at(NoiseSample(*each), self.settings.range)
                for each in ((fool, fool_eps), (tell, tell_eps))
            )
        images, condition = space.real
        noise_sample = NoiseSample((discriminator_noise or microbatch.critic).t, eps)
        return replace(
            microbatch,
            generator_noise=generator_noise,
            discriminator_noise=discriminator_noise,
            real=Real(images, condition, noise_sample, shift),
        )

    def joins(self, plan: StepPlan, microbatch: Microbatch) -> bool:
        """With shared draws, where the logits have a use."""
        used = self.name in plan.on_samples or DIVERGENCES[self.settings.divergence] is not None
        return used and microbatch.generator_noise is None

    def weigh(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Under the divergence."""
        weights = ratio_weights(logits, self.settings.divergence)
        return losses if weights is None else weights * losses

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """To fool the critic, by the logits of the matching's pass if it has some."""
        logits = seen.logits
        if logits is None:
            noise_sample = seen.microbatch.generator_noise or seen.microbatch.matching
            logits = seen.critic.logits(seen.diffused(noise_sample), **seen.step)
        loss = fool_loss(logits)
        log = {"gan_student": loss.detach()}
        if self.settings.heads == "mean":
            assert seen.real is not None
            loss = loss * mean_distance(seen.x0.detach(), seen.real).reciprocal().mean()
        return loss, log

    def judged_with(self, microbatch: Microbatch, samples: Tensor, schedule: Schedule) -> Inputs:
        """Real images; before them the samples diffused once more if the draws are separate.

        After them their neighbours, if there is a smoothness.
        """
        assert microbatch.real is not None
        real, parts = microbatch.real, list[Inputs]()
        if (noise_sample := microbatch.discriminator_noise) is not None:
            x_t = noise_sample.add_noise(samples, schedule)
            parts.append(Inputs(x_t, noise_sample.t, microbatch.condition))
        x_t, t = real.noise_sample.add_noise(real.images, schedule), real.noise_sample.t
        parts.append(Inputs(x_t, t, real.condition))
        if self.settings.smoothness:
            parts.append(Inputs(x_t + self._nearby * real.shift, t, real.condition))
        return Inputs.cat(parts)

    def critic_loss(self, seen: CriticPass) -> tuple[Tensor, dict[str, Tensor]]:
        """To tell, of the logits of the samples and of `judged_with`."""
        assert seen.logits is not None
        own, *parts = seen.logits.split(len(seen.samples))
        fake = own if seen.microbatch.discriminator_noise is None else parts.pop(0)
        real = parts.pop(0)
        loss = discriminator_loss(fake, real)
        log = {
            "gan_critic": loss.detach(),
            "gan_accuracy": 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean()),
        }
        if self.settings.smoothness:
            uneven = smoothness_loss(real, parts.pop(0), self._nearby)
            log["gan_smoothness"] = uneven.detach()
            loss = loss + self.settings.smoothness * uneven
        return self.settings.critic_weight * loss, log

    @property
    def _nearby(self) -> float:
        return NEARBY[self.distill.precision]

    @property
    def _shared(self) -> bool:
        return self.distill.draws == "shared"
