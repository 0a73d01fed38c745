"""The method: which losses, on which draws, at which step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.terms import BUILT_IN
from pipeline.diffusion import seeds
from pipeline.diffusion.buckets import Shape
from pipeline.diffusion.condition import Conditioner, Inputs
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.sampler import FewStepSampler, GuidedDenoise
from pipeline.methods.microbatch import Loss, Microbatch, NoiseSample, RealImages, StepPlan
from pipeline.methods.recipe import Recipe
from pipeline.methods.samples import SamplesSeen, Source
from pipeline.methods.terms.term import CriticPass, Space, Term


@dataclass(frozen=True)
class DMD:
    """Distribution matching distillation: the terms of a recipe, on the draws of a step.

    In a step of both networks the student comes first, and the critic learns the samples that it
    gave before its update.

    Args:
        schedule: Of all three networks.
        error_weight: Of all three: times (B,) -> the weight of x0's squared error at each that
            makes it the error of what the network itself gives, (B,).
        shape: One image, (C, H, W).
        conditioner: Of all three networks.
        recipe: Phases and terms.
        steps: The student's way from noise to images; None for one call at the noisiest time.

    The critic is a `Critic` where a term needs heads, and where there are several steps.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Algorithm 1; the GAN and the simulated inputs
    of later steps of DMD2 (Yin et al., 2024), arXiv 2405.14867, Section 4.
    """

    schedule: Schedule
    error_weight: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    conditioner: Conditioner
    recipe: Recipe
    steps: FewStepSampler | None = None

    def at(self, shape: Shape, schedule: Schedule) -> "DMD":
        """The method on samples of another shape, whose draws are of times of another schedule.

        The student's own times stay the same.
        """
        return replace(self, shape=shape, schedule=schedule, steps=self.sampler)

    @property
    def sampler(self) -> FewStepSampler:
        """The student's from noise to images."""
        return self.steps or FewStepSampler(self.schedule, (self.schedule.start,))

    @property
    def terms(self) -> tuple[Term[Any], ...]:
        """The recipe's."""
        return self.recipe.terms

    def plan(self, step: int) -> StepPlan:
        """What happens at a step, counted from 0."""
        return self.recipe.plan(step)

    def step_index(self, rng: torch.Generator) -> int:
        """Which of its times the student learns at in one step, the same for all microbatches."""
        return int(torch.randint(len(self.sampler.timesteps), (), generator=rng))

    def step_index_at(self, seed: int, step: int) -> int:
        """That of a step of a run, counted from 0."""
        return self.step_index(seeds.generator("exit", seed, step))

    def space(self, step_index: int) -> Space:
        """What terms draw in at one of the student's steps, counted from 0, without real images.

        Its noise levels are those of the step. The next step is given these images with noise of
        its own time, so that no lower level matters to it.

        Source: TDM (Luo et al., 2025), arXiv 2503.06674, and the two ways of its authors' code; all
        levels above are the nested intervals of Phased DMD (Fan et al., 2025), arXiv 2510.27684.
        """
        space, wanted = Space(self.schedule, self.shape), self.recipe.distill.student.levels
        if wanted == "all":
            return space
        times = torch.tensor(self.sampler.timesteps, dtype=torch.float64)
        ends = [*self.schedule.fraction_from_time(times).tolist(), 0.0]
        high = ends[step_index] if wanted == "step" else 1.0
        return replace(space, levels=(ends[step_index + 1], high))

    def draw(
        self,
        count: int,
        rng: torch.Generator,
        pairs: PairBatch | None = None,
        real: RealImages | None = None,
        step_index: int = 0,
        device: torch.device | str = "cpu",
    ) -> Microbatch:
        """`count` fresh samples on a device, a function of the generator whatever the step.

        The noise of the samples, of matching and of denoising comes in one call, so that a run's
        numbers stay what they were; these terms then set their times. A term that is not built in
        draws from a generator of its own, and so changes none of the others' numbers.
        """
        noise, matching_eps, critic_eps = torch.randn(3, count, *self.shape, generator=rng)
        fractions = torch.rand(2, count, generator=rng)
        labels = None
        if self.conditioner.classes is not None:
            labels = torch.randint(self.conditioner.classes, (count,), generator=rng)
        if self.recipe.shared and pairs is not None:
            noise = torch.cat([pairs.noise, noise[len(pairs.noise) :]])
            if labels is not None and pairs.labels is not None:
                labels = torch.cat([pairs.labels, labels[len(pairs.labels) :]])
        microbatch = Microbatch(
            noise,
            self.conditioner(labels, count, device),
            NoiseSample(fractions[0], matching_eps),
            NoiseSample(fractions[1], critic_eps),
            step_index,
            labels,
        )
        if pairs is not None:
            of_pairs = self.conditioner(pairs.labels, len(pairs.noise), device)
            microbatch = replace(microbatch, pairs=pairs, pairs_condition=of_pairs)
        space = self.space(step_index)
        if real is not None:
            images, classes = real
            space = replace(space, real=(images, self.conditioner(classes, len(images), device)))
        for term in self.terms:
            own = term.name not in BUILT_IN
            its_rng = seeds.generator(term.name, rng.initial_seed()) if own else rng
            microbatch = term.draw(microbatch, its_rng, space)
        return microbatch.to(torch.device(device))

    def student_loss(
        self,
        plan: StepPlan,
        student: nn.Module,
        teacher: GuidedDenoise,
        critic: Any,
        microbatch: Microbatch,
    ) -> Loss:
        """Losses on fresh noise and losses on pairs, in one student pass with gradients.

        Args:
            plan: With the losses' weights.
            student: Called once with gradients; before, without, for the input of a later step.
            teacher, critic: Their weights get no gradients; the teacher is under its guidance.
            microbatch: Its draws; with pairs and real images where terms need them.
        """
        plan = self.recipe.at(plan, microbatch.step_index)
        sampler, inputs = self.sampler, list[Inputs]()
        if plan.on_samples:
            t = sampler.time(microbatch.step_index, microbatch.noise)
            inputs.append(Inputs(self._input(student, microbatch), t, microbatch.condition))
        apart = plan.on_pairs and not (self.recipe.shared and plan.on_samples)
        if apart:
            assert microbatch.pairs is not None and microbatch.pairs_condition is not None
            noise, condition = microbatch.pairs.noise, microbatch.pairs_condition
            x_t = sampler.input(student, noise, condition, 0)
            inputs.append(Inputs(x_t, sampler.time(0, noise), condition))
        images = student(*Inputs.cat(inputs))
        total, samples = images.new_zeros(()), None
        parts: dict[str, Tensor] = {}
        if plan.on_samples:
            fresh = images[: len(microbatch.noise)]
            samples = fresh.detach()
            source = Source(student, inputs[0])
            gradient, parts = self._sample_gradient(
                plan, teacher, critic, samples, microbatch, source
            )
            total = total + (fresh * gradient).sum()
            parts["sample_mean"], parts["sample_std"] = samples.mean(), samples.std()
        if plan.on_pairs:
            assert microbatch.pairs is not None
            count = len(microbatch.pairs.noise)
            of_pairs = images[-count:] if apart else images[:count]
            for term, weight in self._weighted(plan.on_pairs):
                loss = term.pair_loss(of_pairs, microbatch.pairs)
                total = total + weight * loss
                parts[term.name] = loss.detach()
        return Loss(total, parts, samples)

    @torch.no_grad()
    def samples(self, student: nn.Module, microbatch: Microbatch) -> Tensor:
        """The student's images at the microbatch's step, (B, C, H, W), without gradients."""
        t = self.sampler.time(microbatch.step_index, microbatch.noise)
        images: Tensor = student(self._input(student, microbatch), t, microbatch.condition)
        return images

    @torch.no_grad()
    def _input(self, student: nn.Module, microbatch: Microbatch) -> Tensor:
        """What the student is given at the microbatch's step, as it is given it when it samples."""
        return self.sampler.input(
            student, microbatch.noise, microbatch.condition, microbatch.step_index
        )

    def _weighted(self, weights: Mapping[str, float]) -> list[tuple[Term[Any], float]]:
        return [(term, weights[term.name]) for term in self.terms if term.name in weights]

    def _step_conditioned(self, microbatch: Microbatch) -> dict[str, int]:
        """Tells a critic which step made the images, where the student has several."""
        several = len(self.sampler.timesteps) > 1
        return {"step_index": microbatch.step_index} if several else {}

    def _sample_gradient(
        self,
        plan: StepPlan,
        teacher: GuidedDenoise,
        critic: Any,
        samples: Tensor,
        microbatch: Microbatch,
        source: Source | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient of the losses on fresh noise with respect to the samples, and what to log.

        They are taken with respect to the samples alone: no weight gets a gradient.
        """
        joined = next((each for each in self.terms if each.joins(plan, microbatch)), None)
        seen = SamplesSeen(
            x0=samples.detach().requires_grad_(),
            microbatch=microbatch,
            schedule=self.schedule,
            teacher=teacher,
            critic=critic,
            step=self._step_conditioned(microbatch),
            weigh=joined.weigh if joined else None,
            source=source,
        )
        total, parts = torch.zeros_like(samples), dict[str, Tensor]()
        for term, weight in self._weighted(plan.on_samples):
            loss, log = term.sample_loss(seen)
            (gradient,) = torch.autograd.grad(loss, seen.x0, retain_graph=seen.logits is not None)
            # RMS of the gradient of a summed loss, from that of its mean
            rms = gradient.square().mean().sqrt() * gradient.numel()
            parts |= {**log, f"{term.name}_gradient": rms}
            total += weight * gradient
        return total, parts

    def critic_loss(self, critic: Any, samples: Tensor, microbatch: Microbatch) -> Loss:
        """Of the critic, on the student's samples, (B, C, H, W), detached, in one pass."""
        step, noise_sample = self._step_conditioned(microbatch), microbatch.critic
        x_t, t = noise_sample.add_noise(samples, self.schedule), noise_sample.t
        inputs, weight = Inputs(x_t, t, microbatch.condition), self.error_weight(t)
        judged_with = (each.judged_with(microbatch, samples, self.schedule) for each in self.terms)
        judged, logits = next((each for each in judged_with if each is not None), None), None
        if judged is None:
            x0 = critic(*inputs, **step)
        else:
            x0, logits = critic(*inputs, **step, judged=judged)
        seen = CriticPass(samples, microbatch, x0, logits, weight)
        losses = [loss for term in self.terms if (loss := term.critic_loss(seen)) is not None]
        total = sum((loss for loss, _ in losses[1:]), losses[0][0])
        return Loss(total, {name: value for _, log in losses for name, value in log.items()})
