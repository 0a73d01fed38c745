"""The method: which losses, on which draws, at whose turn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.schema import PairBatch
from pipeline.diffusion.adversarial import fool_loss
from pipeline.diffusion.losses import denoising_loss
from pipeline.diffusion.matching import MATCHING, Matching
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.sampler import Denoise, Steps
from pipeline.methods.microbatch import Draw, Lane, Loss, Real, RealImages, Turn
from pipeline.methods.terms.gan import GAN
from pipeline.methods.terms.regression import Distance, l2
from pipeline.models.critic import Rows, joined


@dataclass(frozen=True)
class DMD:
    """Distribution matching distillation in three phases.

    First the student alone learns from the pairs, then the critic alone learns the student's
    samples, then both learn: the critic in every step, the student in every n-th, where it comes
    first and the critic learns the samples that it gave before its update.

    Args:
        schedule: Of all three networks.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None.
        regression_steps, burn_in_steps: Lengths of the first two phases.
        regression_weight, matching_weight: Weights of the student's losses in the third.
        matching_range, critic_range: Ends of the diffusion times, as fractions of
            `Schedule.at`.
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
    classes: int | None
    regression_steps: int
    burn_in_steps: int
    regression_weight: float
    matching_weight: float
    matching_range: tuple[float, float]
    critic_range: tuple[float, float]
    student_every: int = 1
    steps: Steps | None = None
    distance: Distance = l2
    matching: Matching = MATCHING["dmd"]
    gan: GAN | None = None
    shared: bool = False

    @property
    def way(self) -> Steps:
        """The student's from noise to images."""
        return self.steps or Steps(self.schedule, (self.schedule.start,))

    def turn(self, step: int) -> Turn:
        """What happens at a step, counted from 0."""
        if step < self.regression_steps:
            return Turn(regression=1.0)
        in_third = step - self.regression_steps - self.burn_in_steps
        if in_third < 0 or (in_third + 1) % self.student_every:
            return Turn(critic=True)
        gan = self.gan.student_weight if self.gan else 0.0
        return Turn(self.regression_weight, self.matching_weight, gan, critic=True)

    def exit(self, rng: torch.Generator) -> int:
        """Which of its times the student learns at in one step, the same for all its lanes."""
        return int(torch.randint(len(self.way.times), (), generator=rng))

    def draw(
        self,
        count: int,
        rng: torch.Generator,
        pairs: PairBatch | None = None,
        real: RealImages | None = None,
        exit: int = 0,
    ) -> Lane:
        """A lane of `count` fresh samples, a function of the generator whatever the turn."""
        noise, matching_eps, critic_eps = torch.randn(3, count, *self.shape, generator=rng)
        fractions = torch.rand(2, count, generator=rng)
        labels = None
        if self.classes is not None:
            labels = torch.randint(self.classes, (count,), generator=rng)
        if self.shared and pairs is not None:
            noise = torch.cat([pairs.noise, noise[len(pairs.noise) :]])
            if labels is not None and pairs.labels is not None:
                labels = torch.cat([pairs.labels, labels[len(pairs.labels) :]])
        matching = Draw(self._times(fractions[0], self.matching_range), matching_eps)
        critic = Draw(self._times(fractions[1], self.critic_range), critic_eps)
        lane = Lane(noise, labels, matching, critic, exit, pairs=pairs)
        if self.gan is None or real is None:
            return lane
        return self._with_gan(lane, rng, self.gan, real)

    def _with_gan(self, lane: Lane, rng: torch.Generator, gan: GAN, real: RealImages) -> Lane:
        count = len(lane.noise)
        eps, shift, fooling_eps, telling_eps = torch.randn(4, count, *self.shape, generator=rng)
        fractions = torch.rand(2, count, generator=rng)
        fooling = telling = None
        if not self.shared:
            fooling, telling = (
                Draw(self._times(fraction, gan.range), noise)
                for fraction, noise in zip(fractions, (fooling_eps, telling_eps), strict=True)
            )
        draw = Draw((telling or lane.critic).t, eps)
        return replace(lane, fooling=fooling, telling=telling, real=Real(*real, draw, shift))

    def _times(self, fraction: Tensor, ends: tuple[float, float]) -> Tensor:
        low, high = ends
        return self.schedule.at(low + (high - low) * fraction)

    def student_loss(
        self, turn: Turn, student: nn.Module, teacher: Denoise, critic: nn.Module, lane: Lane
    ) -> Loss:
        """Losses on fresh noise and regression loss on pairs, in one student pass with gradients.

        Args:
            turn: With its weights; a loss of weight 0 is not computed.
            student: Called once with gradients; before, without, for an exit at a later time.
            teacher, critic: Their weights get no gradients; the teacher is under its guidance.
            lane: Its draws; with pairs if turn.regression > 0, with real images if turn.gan > 0.
        """
        way, rows = self.way, list[Rows]()
        if turn.fresh:
            t = way.time(lane.exit, lane.noise)
            rows.append(Rows(self._input(student, lane), t, lane.labels))
        apart = turn.regression and not (self.shared and turn.fresh)
        if apart:
            assert lane.pairs is not None
            noise = lane.pairs.noise
            x_t = way.input(student, noise, lane.pairs.labels, 0)
            rows.append(Rows(x_t, way.time(0, noise), lane.pairs.labels))
        images = student(*joined(rows))
        total, samples = images.new_zeros(()), None
        parts: dict[str, Tensor] = {}
        if turn.fresh:
            fresh = images[: len(lane.noise)]
            samples = fresh.detach()
            gradient, parts = self._pull(turn, teacher, critic, samples, lane)
            total = total + (fresh * gradient).sum()
            parts["sample_mean"], parts["sample_std"] = samples.mean(), samples.std()
        if turn.regression:
            assert lane.pairs is not None
            count = len(lane.pairs.noise)
            loss = self.distance(images[-count:] if apart else images[:count], lane.pairs)
            total = total + turn.regression * loss
            parts["regression"] = loss.detach()
        return Loss(total, parts, samples)

    @torch.no_grad()
    def samples(self, student: nn.Module, lane: Lane) -> Tensor:
        """The student's images at the lane's exit, (B, C, H, W), without gradients."""
        t = self.way.time(lane.exit, lane.noise)
        images: Tensor = student(self._input(student, lane), t, lane.labels)
        return images

    @torch.no_grad()
    def _input(self, student: nn.Module, lane: Lane) -> Tensor:
        """What the student is given at the lane's exit, as it is given it when it samples."""
        return self.way.input(student, lane.noise, lane.labels, lane.exit)

    def _told(self, critic: nn.Module, lane: Lane) -> Callable[..., Any]:
        """The critic for what the student makes at the lane's exit, where it has several."""
        return partial(critic, exit=lane.exit) if len(self.way.times) > 1 else critic

    def _pull(
        self, turn: Turn, teacher: Denoise, critic: nn.Module, samples: Tensor, lane: Lane
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient of the losses on fresh noise with respect to the samples, and what to log.

        They are taken with respect to the samples alone: no weight gets a gradient.
        """
        x0, t = samples.detach().requires_grad_(), lane.matching.t
        told = self._told(critic, lane)
        total, logits = torch.zeros_like(x0), None
        parts: dict[str, Tensor] = {}
        if turn.matching:
            through = self.matching.through_scores
            x_t = lane.matching.of(x0, self.schedule)
            with torch.set_grad_enabled(through):
                real = teacher(x_t, t, lane.labels)
            if self.gan and lane.fooling is None and (turn.gan or self.gan.weighs):
                fake, logits = told(x_t, t, lane.labels, judge="too", through=through)
            else:
                with torch.set_grad_enabled(through):
                    fake = told(x_t, t, lane.labels)
            losses = self.matching.loss(x0, real, fake)
            if self.gan and logits is not None:
                losses = self.gan.weigh(losses, logits)
            (gradient,) = torch.autograd.grad(losses.mean(), x0, retain_graph=logits is not None)
            parts["matching_gradient"] = _size(gradient)
            total += turn.matching * gradient
        if turn.gan:
            if logits is None:
                draw = lane.fooling or lane.matching
                x_t = draw.of(x0, self.schedule)
                logits = told(x_t, draw.t, lane.labels, judge="only")
            loss = fool_loss(logits)
            (gradient,) = torch.autograd.grad(loss, x0)
            parts |= {"gan_student": loss.detach(), "gan_gradient": _size(gradient)}
            total += turn.gan * gradient
        return total, parts

    def critic_loss(self, critic: nn.Module, samples: Tensor, lane: Lane) -> Loss:
        """Of the critic, on the student's samples, (B, C, H, W), detached.

        Denoising; with a GAN, which of samples and real images are which, in the same pass.
        """
        told, draw = self._told(critic, lane), lane.critic
        x_t, weight = draw.of(samples, self.schedule), self.schedule.weight(draw.t)
        if self.gan is None:
            loss = denoising_loss(told(x_t, draw.t, lane.labels), samples, weight)
            return Loss(loss, {"critic": loss.detach()})
        more = self.gan.rows(lane, samples, self.schedule)
        x0, logits = told(x_t, draw.t, lane.labels, judge="too", more=more)
        loss = denoising_loss(x0, samples, weight)
        telling, parts = self.gan.loss(lane, logits)
        return Loss(loss + telling, {"critic": loss.detach(), **parts})


def _size(gradient: Tensor) -> Tensor:
    """RMS of the gradient of a summed loss, from that of its mean."""
    return gradient.square().mean().sqrt() * gradient.numel()
