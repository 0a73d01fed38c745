"""The method: which losses, on which draws, at whose turn."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from pipeline.data.schema import PairBatch
from pipeline.diffusion.losses import denoising_loss, matching_gradient, matching_loss
from pipeline.diffusion.noise import Schedule, diffuse
from pipeline.distill.regression import Distance, l2
from pipeline.models.sampling import Denoise, one_step


@dataclass(frozen=True)
class Turn:
    """Who learns at a step, and from what.

    Attributes:
        regression: Weight of the regression loss; 0 leaves it out.
        matching: Weight of the matching loss; 0 leaves it out.
        critic: Whether the critic takes a step.
    """

    regression: float
    matching: float
    critic: bool

    @property
    def student(self) -> bool:
        """Whether the student takes a step."""
        return self.regression > 0 or self.matching > 0


@dataclass(frozen=True)
class Lane:
    """One micro-batch: every random number of it at one step, and its pairs.

    Attributes:
        noise: Unit-variance input of the student, (B, C, H, W).
        labels: Conditions, (B,) int64, or None.
        matching_t, matching_eps: Time (B,) and noise (B, C, H, W) of the matching loss.
        critic_t, critic_eps: The same for the critic's denoising loss.
        pairs: Teacher pairs of the regression loss, where the turn has one.
        weight: 0 for a lane that only fills up: sharded networks need every worker's call.
    """

    noise: Tensor
    labels: Tensor | None
    matching_t: Tensor
    matching_eps: Tensor
    critic_t: Tensor
    critic_eps: Tensor
    pairs: PairBatch | None
    weight: float = 1.0

    def to(self, device: torch.device) -> "Lane":
        """The same lane on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: v.to(device) for name, v in values.items() if hasattr(v, "to")}
        )


@dataclass(frozen=True)
class Loss:
    """The loss of one lane.

    Attributes:
        total: What is minimised, ().
        parts: Detached scalars for the log.
        samples: The student's images of the fresh noise, (B, C, H, W), detached, where the
            loss made them.
    """

    total: Tensor
    parts: dict[str, Tensor]
    samples: Tensor | None = None


@dataclass(frozen=True)
class DMD:
    """Distribution matching distillation in three phases.

    First the student alone learns from the pairs, then the critic alone learns the student's
    samples, then both learn: the critic in every step, the student in every n-th, where it comes
    first and the critic learns the samples that it gave before its update.

    Args:
        schedule: Of teacher and critic, and of the student but for its start.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None.
        regression_steps, burn_in_steps: Lengths of the first two phases.
        regression_weight, matching_weight: Weights of the student's losses in the third.
        matching_range, critic_range: Ends of the diffusion times, as fractions of
            `Schedule.at`.
        student_every: Critic steps to one student step in the third phase.
        start: Schedule whose noisiest time the student starts at; None for the same one.
        distance: Of the regression loss.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Algorithm 1; the two time scales of DMD2
    (Yin et al., 2024), arXiv 2405.14867, Section 4.2.
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
    start: Schedule | None = None
    distance: Distance = l2

    def images(self, student: nn.Module, noise: Tensor, labels: Tensor | None) -> Tensor:
        """The student's images of unit-variance noise, (B, C, H, W)."""
        return one_step(student, self.start or self.schedule, noise, labels)

    def turn(self, step: int) -> Turn:
        """What happens at a step, counted from 0."""
        if step < self.regression_steps:
            return Turn(regression=1.0, matching=0.0, critic=False)
        in_third = step - self.regression_steps - self.burn_in_steps
        if in_third < 0 or (in_third + 1) % self.student_every:
            return Turn(regression=0.0, matching=0.0, critic=True)
        return Turn(self.regression_weight, self.matching_weight, critic=True)

    def draw(self, count: int, rng: torch.Generator, pairs: PairBatch | None) -> Lane:
        """A lane of `count` fresh samples, a function of the generator whatever the turn."""
        noise, matching_eps, critic_eps = torch.randn(3, count, *self.shape, generator=rng)
        fractions = torch.rand(2, count, generator=rng)
        labels = None
        if self.classes is not None:
            labels = torch.randint(self.classes, (count,), generator=rng)
        return Lane(
            noise,
            labels,
            self._times(fractions[0], self.matching_range),
            matching_eps,
            self._times(fractions[1], self.critic_range),
            critic_eps,
            pairs,
        )

    def _times(self, fraction: Tensor, ends: tuple[float, float]) -> Tensor:
        low, high = ends
        return self.schedule.at(low + (high - low) * fraction)

    def student_loss(
        self, turn: Turn, student: nn.Module, teacher: Denoise, critic: nn.Module, lane: Lane
    ) -> Loss:
        """Matching loss on fresh noise and regression loss on pairs, in one student pass.

        Args:
            turn: With its weights; a loss of weight 0 is not computed.
            student: Called once, with gradients.
            teacher, critic: Called without gradients; the teacher under its guidance.
            lane: Its draws; with pairs if turn.regression > 0.
        """
        rows = []
        if turn.matching:
            rows.append((lane.noise, lane.labels))
        if turn.regression:
            assert lane.pairs is not None
            rows.append((lane.pairs.noise, lane.pairs.labels))
        labels = [each for _, each in rows if each is not None]
        images = self.images(
            student,
            torch.cat([noise for noise, _ in rows]),
            torch.cat(labels) if labels else None,
        )
        total, parts, samples = images.new_zeros(()), {}, None
        if turn.matching:
            fresh = images[: len(lane.noise)]
            samples = fresh.detach()
            gradient = self.matching_direction(teacher, critic, samples, lane)
            total = total + turn.matching * matching_loss(fresh, gradient)
            parts["matching_gradient"] = gradient.square().mean().sqrt()
            parts["sample_mean"], parts["sample_std"] = samples.mean(), samples.std()
        if turn.regression:
            assert lane.pairs is not None
            loss = self.distance(images[-len(lane.pairs.noise) :], lane.pairs)
            total = total + turn.regression * loss
            parts["regression"] = loss.detach()
        return Loss(total, parts, samples)

    @torch.no_grad()
    def samples(self, student: nn.Module, lane: Lane) -> Tensor:
        """The student's images of the lane's fresh noise, (B, C, H, W), without gradients."""
        return self.images(student, lane.noise, lane.labels)

    @torch.no_grad()
    def matching_direction(
        self, teacher: Denoise, critic: nn.Module, samples: Tensor, lane: Lane
    ) -> Tensor:
        """The matching gradient at the lane's diffused samples, (B, C, H, W), float32."""
        x_t = diffuse(samples, lane.matching_eps, lane.matching_t, self.schedule)
        real = teacher(x_t, lane.matching_t, lane.labels)
        fake = critic(x_t, lane.matching_t, lane.labels)
        return matching_gradient(samples, real, fake)

    def critic_loss(self, critic: nn.Module, samples: Tensor, lane: Lane) -> Loss:
        """Denoising loss of the critic on the student's samples, (B, C, H, W), detached."""
        x_t = diffuse(samples, lane.critic_eps, lane.critic_t, self.schedule)
        prediction = critic(x_t, lane.critic_t, lane.labels)
        loss = denoising_loss(prediction, samples, self.schedule.weight(lane.critic_t))
        return Loss(loss, {"critic": loss.detach()})
