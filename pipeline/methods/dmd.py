"""The method: which losses, on which draws, at whose turn."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.schema import PairBatch
from pipeline.diffusion.adversarial import fool_loss
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.losses import denoising_loss
from pipeline.diffusion.matching import MATCHING, Matching
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.sampler import Denoise, FewStepSampler
from pipeline.methods.microbatch import Loss, Microbatch, NoiseSample, Real, RealImages, StepPlan
from pipeline.methods.terms.gan import GAN
from pipeline.methods.terms.regression import Distance, l2
from pipeline.models.condition import Conditioner
from pipeline.models.denoiser import Inputs


@dataclass(frozen=True)
class DMD:
    """Distribution matching distillation in three phases.

    First the student alone learns from the pairs, then the critic alone learns the student's
    samples, then both learn: the critic in every step, the student in every n-th, where it comes
    first and the critic learns the samples that it gave before its update.

    Args:
        schedule: Of all three networks.
        shape: One image, (C, H, W).
        conditioner: Of all three networks.
        regression_steps, burn_in_steps: Lengths of the first two phases.
        regression_weight, matching_weight: Weights of the student's losses in the third.
        matching_range, critic_range: Ends of the diffusion times, as fractions of
            `Schedule.time_from_fraction`.
        student_every: Critic steps to one student step in the third phase.
        steps: The student's way from noise to images; None for one call at the noisiest time.
        distance: Of the regression loss.
        matching: The matching loss.
        gan: The critic's part as a discriminator, if it has one. It is a `Critic` then, and
            where there are several steps.
        shared: Whether losses share draws and so passes: the pairs' noises are the first ones
            that the matching sees, and the GAN judges what the other losses diffused.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Algorithm 1; the two time scales, the GAN and
    the simulated inputs of later steps of DMD2 (Yin et al., 2024), arXiv 2405.14867, Section 4.
    """

    schedule: Schedule
    shape: tuple[int, int, int]
    conditioner: Conditioner
    regression_steps: int
    burn_in_steps: int
    regression_weight: float
    matching_weight: float
    matching_range: tuple[float, float]
    critic_range: tuple[float, float]
    student_every: int = 1
    steps: FewStepSampler | None = None
    distance: Distance = l2
    matching: Matching = MATCHING["dmd"]
    gan: GAN | None = None
    shared: bool = False

    @property
    def sampler(self) -> FewStepSampler:
        """The student's from noise to images."""
        return self.steps or FewStepSampler(self.schedule, (self.schedule.start,))

    def plan(self, step: int) -> StepPlan:
        """What happens at a step, counted from 0."""
        if step < self.regression_steps:
            return StepPlan(regression=1.0)
        in_third = step - self.regression_steps - self.burn_in_steps
        if in_third < 0 or (in_third + 1) % self.student_every:
            return StepPlan(critic=True)
        gan = self.gan.student_weight if self.gan else 0.0
        return StepPlan(self.regression_weight, self.matching_weight, gan, critic=True)

    def step_index(self, rng: torch.Generator) -> int:
        """Which of its times the student learns at in one step, the same for all its lanes."""
        return int(torch.randint(len(self.sampler.timesteps), (), generator=rng))

    def draw(
        self,
        count: int,
        rng: torch.Generator,
        pairs: PairBatch | None = None,
        real: RealImages | None = None,
        step_index: int = 0,
        device: torch.device | str = "cpu",
    ) -> Microbatch:
        """`count` fresh samples on a device, a function of the generator whatever the step."""
        noise, matching_eps, critic_eps = torch.randn(3, count, *self.shape, generator=rng)
        fractions = torch.rand(2, count, generator=rng)
        labels = None
        if self.conditioner.classes is not None:
            labels = torch.randint(self.conditioner.classes, (count,), generator=rng)
        if self.shared and pairs is not None:
            noise = torch.cat([pairs.noise, noise[len(pairs.noise) :]])
            if labels is not None and pairs.labels is not None:
                labels = torch.cat([pairs.labels, labels[len(pairs.labels) :]])
        matching = NoiseSample(self._times(fractions[0], self.matching_range), matching_eps)
        critic = NoiseSample(self._times(fractions[1], self.critic_range), critic_eps)
        condition = self.conditioner(labels, count, device)
        microbatch = Microbatch(noise, condition, matching, critic, step_index)
        if pairs is not None:
            of_pairs = self.conditioner(pairs.labels, len(pairs.noise), device)
            microbatch = replace(microbatch, pairs=pairs, pairs_condition=of_pairs)
        if self.gan is not None and real is not None:
            images, labels = real
            of_real = self.conditioner(labels, len(images), device)
            microbatch = self._with_gan(microbatch, rng, self.gan, images, of_real)
        return microbatch.to(torch.device(device))

    def _with_gan(
        self,
        microbatch: Microbatch,
        rng: torch.Generator,
        gan: GAN,
        images: Tensor,
        condition: Condition,
    ) -> Microbatch:
        count = len(microbatch.noise)
        eps, shift, fooling_eps, telling_eps = torch.randn(4, count, *self.shape, generator=rng)
        fractions = torch.rand(2, count, generator=rng)
        generator_noise = discriminator_noise = None
        if not self.shared:
            generator_noise, discriminator_noise = (
                NoiseSample(self._times(fraction, gan.range), noise)
                for fraction, noise in zip(fractions, (fooling_eps, telling_eps), strict=True)
            )
        noise_sample = NoiseSample((discriminator_noise or microbatch.critic).t, eps)
        return replace(
            microbatch,
            generator_noise=generator_noise,
            discriminator_noise=discriminator_noise,
            real=Real(images, condition, noise_sample, shift),
        )

    def _times(self, fraction: Tensor, ends: tuple[float, float]) -> Tensor:
        low, high = ends
        return self.schedule.time_from_fraction(low + (high - low) * fraction)

    def student_loss(
        self,
        plan: StepPlan,
        student: nn.Module,
        teacher: Denoise,
        critic: Any,
        microbatch: Microbatch,
    ) -> Loss:
        """Losses on fresh noise and regression loss on pairs, in one student pass with gradients.

        Args:
            turn: With its weights; a loss of weight 0 is not computed.
            student: Called once with gradients; before, without, for an exit at a later time.
            teacher, critic: Their weights get no gradients; the teacher is under its guidance.
            lane: Its draws; with pairs if turn.regression > 0, with real images if turn.gan > 0.
        """
        sampler, inputs = self.sampler, list[Inputs]()
        if plan.fresh:
            t = sampler.time(microbatch.step_index, microbatch.noise)
            inputs.append(Inputs(self._input(student, microbatch), t, microbatch.condition))
        apart = plan.regression and not (self.shared and plan.fresh)
        if apart:
            assert microbatch.pairs is not None and microbatch.pairs_condition is not None
            noise, condition = microbatch.pairs.noise, microbatch.pairs_condition
            x_t = sampler.input(student, noise, condition, 0)
            inputs.append(Inputs(x_t, sampler.time(0, noise), condition))
        images = student(*Inputs.cat(inputs))
        total, samples = images.new_zeros(()), None
        parts: dict[str, Tensor] = {}
        if plan.fresh:
            fresh = images[: len(microbatch.noise)]
            samples = fresh.detach()
            gradient, parts = self._sample_gradient(plan, teacher, critic, samples, microbatch)
            total = total + (fresh * gradient).sum()
            parts["sample_mean"], parts["sample_std"] = samples.mean(), samples.std()
        if plan.regression:
            assert microbatch.pairs is not None
            count = len(microbatch.pairs.noise)
            loss = self.distance(images[-count:] if apart else images[:count], microbatch.pairs)
            total = total + plan.regression * loss
            parts["regression"] = loss.detach()
        return Loss(total, parts, samples)

    @torch.no_grad()
    def samples(self, student: nn.Module, microbatch: Microbatch) -> Tensor:
        """The student's images at the lane's exit, (B, C, H, W), without gradients."""
        t = self.sampler.time(microbatch.step_index, microbatch.noise)
        images: Tensor = student(self._input(student, microbatch), t, microbatch.condition)
        return images

    @torch.no_grad()
    def _input(self, student: nn.Module, microbatch: Microbatch) -> Tensor:
        """What the student is given at the microbatch's step, as it is given it when it samples."""
        return self.sampler.input(
            student, microbatch.noise, microbatch.condition, microbatch.step_index
        )

    def _step_conditioned(self, microbatch: Microbatch) -> dict[str, int]:
        """Tells a critic which step made the images, where the student has several."""
        several = len(self.sampler.timesteps) > 1
        return {"step_index": microbatch.step_index} if several else {}

    def _sample_gradient(
        self,
        plan: StepPlan,
        teacher: Denoise,
        critic: Any,
        samples: Tensor,
        microbatch: Microbatch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient of the losses on fresh noise with respect to the samples, and what to log.

        They are taken with respect to the samples alone: no weight gets a gradient.
        """
        x0 = samples.detach().requires_grad_()
        t, condition = microbatch.matching.t, microbatch.condition
        step = self._step_conditioned(microbatch)
        total, logits = torch.zeros_like(x0), None
        parts: dict[str, Tensor] = {}
        if plan.matching:
            through = self.matching.through_scores
            x_t = microbatch.matching.add_noise(x0, self.schedule)
            with torch.set_grad_enabled(through):
                real = teacher(x_t, t, condition)
            if self.gan and microbatch.generator_noise is None and (plan.gan or self.gan.weighs):
                fake, logits = critic.denoise_and_logits(Inputs(x_t, t, condition), **step)
                fake = fake if through else fake.detach()
            else:
                with torch.set_grad_enabled(through):
                    fake = critic(x_t, t, condition, **step)
            losses = self.matching.loss(x0, real, fake)
            if self.gan and logits is not None:
                losses = self.gan.weigh(losses, logits)
            (gradient,) = torch.autograd.grad(losses.mean(), x0, retain_graph=logits is not None)
            parts["matching_gradient"] = _size(gradient)
            total += plan.matching * gradient
        if plan.gan:
            if logits is None:
                noise_sample = microbatch.generator_noise or microbatch.matching
                x_t = noise_sample.add_noise(x0, self.schedule)
                logits = critic.logits(Inputs(x_t, noise_sample.t, condition), **step)
            loss = fool_loss(logits)
            (gradient,) = torch.autograd.grad(loss, x0)
            parts |= {"gan_student": loss.detach(), "gan_gradient": _size(gradient)}
            total += plan.gan * gradient
        return total, parts

    def critic_loss(self, critic: Any, samples: Tensor, microbatch: Microbatch) -> Loss:
        """Of the critic, on the student's samples, (B, C, H, W), detached.

        Denoising; with a GAN, which of samples and real images are which, in the same pass.
        """
        step, noise_sample = self._step_conditioned(microbatch), microbatch.critic
        x_t, t = noise_sample.add_noise(samples, self.schedule), noise_sample.t
        inputs, weight = Inputs(x_t, t, microbatch.condition), self.schedule.weight(t)
        if self.gan is None:
            loss = denoising_loss(critic(*inputs, **step), samples, weight)
            return Loss(loss, {"critic": loss.detach()})
        judged = self.gan.inputs(microbatch, samples, self.schedule)
        x0, logits = critic(*inputs, **step, judged=judged)
        loss = denoising_loss(x0, samples, weight)
        discriminator, parts = self.gan.loss(microbatch, logits)
        return Loss(loss + discriminator, {"critic": loss.detach(), **parts})


def _size(gradient: Tensor) -> Tensor:
    """RMS of the gradient of a summed loss, from that of its mean."""
    return gradient.square().mean().sqrt() * gradient.numel()
