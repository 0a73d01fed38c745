"""A term: one loss of the method, and all that belongs to it, in one file.

Its settings, what it needs, its rules, what it draws, its loss and its network calls stand in its
class. Whoever plans, prices, checks or trains asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from pipeline.config.distill import DistillConfig
from pipeline.diffusion.condition import Condition, Inputs
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.microbatch import Microbatch, NoiseSample, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.utils.fields import Branch

S = TypeVar("S", bound=Branch)


@dataclass(frozen=True)
class Needs:
    """What a term needs beside the student, the teacher and the critic.

    Attributes:
        pairs: Whether it needs stored pairs.
        real: Whether it needs real images in the critic's steps.
        heads: Whether the critic needs discriminator heads, so that it judges images too.
    """

    pairs: bool = False
    real: bool = False
    heads: bool = False

    def __or__(self, other: Needs) -> Needs:
        """The needs of two terms together: what at least one of them needs."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Needs(*(mine or theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class NetworkCalls:
    """How many images go through each network, and (`_backward`) how many gradients come back.

    `features` counts what goes through the critic only up to the features that its heads judge.
    """

    teacher: float = 0
    teacher_backward: float = 0
    student: float = 0
    student_backward: float = 0
    critic: float = 0
    critic_backward: float = 0
    features: float = 0
    features_backward: float = 0

    def __add__(self, other: NetworkCalls) -> NetworkCalls:
        """The calls of both, added up network by network."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return NetworkCalls(*(mine + theirs for mine, theirs in pairs))

    def __mul__(self, times: float) -> NetworkCalls:
        """The same calls, each of them `times` as often."""
        return NetworkCalls(*(times * each for each in astuple(self)))

    def evaluations(self) -> tuple[float, float]:
        """What the calls cost: forward passes of the teacher, and of student and critic together.

        A backward pass costs two of them; a pass to the judged features costs half of a whole one.
        """
        features = 0.5 * (self.features + 2 * self.features_backward)
        critic = self.critic + 2 * self.critic_backward + features
        student = self.student + 2 * self.student_backward
        return self.teacher + 2 * self.teacher_backward, student + critic


@dataclass(frozen=True)
class Held:
    """What a term holds in a worker's memory; its networks are on the meta device.

    Attributes:
        networks: The term's own networks, whose weights are counted.
        shared: Networks of the teacher that `call` uses too; they are counted elsewhere.
        call: Computes the term's loss of one image on the meta device.
        rows: How many images the term keeps activations of at the same time.
    """

    networks: Sequence[nn.Module]
    call: Callable[[], Tensor]
    rows: int
    shared: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Space:
    """What a term must know to draw its random numbers.

    Attributes:
        schedule: The noise schedule that student, teacher and critic share.
        shape: The shape of one image, (C, H, W).
        real: Real images (B, C, H, W) and their condition; None where the step has none.
        levels: The lowest and the highest noise level of the student's step; see `DMD.space`.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    real: tuple[Tensor, Condition] | None = None
    levels: tuple[float, float] = (0.0, 1.0)

    def within(self, ends: tuple[float, float]) -> tuple[float, float]:
        """What of a range of noise levels is in that of the student's step."""
        return max(ends[0], self.levels[0]), min(ends[1], self.levels[1])

    def at(self, uniform: NoiseSample, ends: tuple[float, float]) -> NoiseSample:
        """Turn uniform numbers into times of the schedule, (B,); the noise stays as it is.

        Args:
            uniform: Numbers in [0, 1) in place of the times, (B,), and the noise (B, C, H, W).
            ends: The lowest and the highest noise level, from 0 (clean) to 1 (pure noise).
        """
        low, high = ends
        return replace(uniform, t=self.schedule.time_from_fraction(low + (high - low) * uniform.t))


@dataclass(frozen=True)
class CriticPass:
    """What the critic predicted in its own step.

    Attributes:
        samples: The student's samples, (B, C, H, W), without gradient.
        microbatch: All draws of the step.
        x0: What the critic makes of the diffused samples, (B, C, H, W), with gradient.
        logits: The heads' logits, (rows, any), with gradient: B rows of the diffused samples,
            then those of `Term.judged_with`. None where nothing is judged.
        weight: The weight of each sample's denoising loss, (B,).
    """

    samples: Tensor
    microbatch: Microbatch
    x0: Tensor
    logits: Tensor | None
    weight: Tensor


@dataclass(frozen=True)
class Term(Generic[S]):
    """A term is one loss of the student, of the critic, or of both.

    A subclass names the class of its settings in `Settings` and has a loss for each network that it
    trains: `sample_loss` or, with `on_pairs`, `pair_loss` for the student, `critic_loss` for the
    critic. One line in `TERMS` registers it.

    Args:
        name: The term's name in `TERMS`, in the settings and in the log.
        settings: The term's own settings, an instance of `Settings`.
        distill: The settings of the distillation, which the term's own must agree with.
    """

    Settings: ClassVar[type[Branch]]
    on_pairs: ClassVar[bool] = False
    """Whether the student's loss is on its images of the pairs' noise, not of fresh noise."""
    alone_at: ClassVar[int | None] = None
    """The step of the student that no other loss on fresh noise teaches, and it no other step."""

    name: str
    settings: S
    distill: DistillConfig

    @property
    def active(self) -> bool:
        """Whether the settings turn the term on; one that is off has no part in a run."""
        return True

    @property
    def weight(self) -> float:
        """The weight of the student's loss in the third phase; at 0 it is not computed."""
        return 0.0

    @property
    def weight_alone(self) -> float:
        """The weight of a loss on pairs in the first phase; at 0 it is not computed."""
        return 0.0

    def needs(self) -> Needs:
        """What the term needs beside the three networks."""
        return Needs()

    def problems(self) -> Iterator[str]:
        """Yield a line for each setting that does not agree, which ends with the way out.

        Those of the built-in terms are in `pipeline.config.term_rules`.
        """
        yield from ()

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """Count the network calls that the term adds to one step, over all its microbatches.

        The method counts the student's calls, for the terms share them.

        Args:
            plan: Who trains at the step, and with which weights.
            guided: Images through the teacher for one prediction: 2 under guidance, else 1.
        """
        return NetworkCalls()

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """Return the microbatch with the term's random numbers, in `draws` under its name.

        Args:
            microbatch: What the method and the terms before this one have drawn.
            rng: The generator: one for all built-in terms, one of its own for any other term.
            space: The schedule, the shape of an image, and the real images.
        """
        return microbatch

    def joins(self, plan: StepPlan, microbatch: Microbatch) -> bool:
        """Whether the critic's heads judge the samples in the pass of the matching loss."""
        return False

    def weigh(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Weight the matching losses (B,) by the logits (B, any) of the same diffused samples.

        Only a term that `joins` is asked. The result has the shape of the losses, (B,).
        """
        return losses

    def pair_loss(self, images: Tensor, pairs: PairBatch) -> Tensor:
        """The student's loss (), on its images (B, C, H, W) of the pairs' noise.

        Raises:
            NotImplementedError: If a subclass with `on_pairs` has a weight but no loss.
        """
        raise NotImplementedError

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's loss () on its samples, and detached scalars () for the log, by name.

        The gradient of the loss flows to `seen.x0`.

        Raises:
            NotImplementedError: If a subclass without `on_pairs` has a weight but no loss.
        """
        raise NotImplementedError

    def judged_with(
        self, microbatch: Microbatch, samples: Tensor, schedule: Schedule
    ) -> Inputs | None:
        """What the critic's heads judge in its step beside the diffused samples.

        Args:
            microbatch: All draws of the step.
            samples: The student's samples, (B, C, H, W), without gradient.
            schedule: The noise schedule of all networks.

        Returns:
            Diffused images (rows, C, H, W) with times and condition; None to judge nothing.
        """
        return None

    def critic_loss(self, seen: CriticPass) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The critic's loss () with gradient, and detached scalars () for the log, by name.

        None if the term does not train the critic.
        """
        return None

    def held(self, shape: tuple[int, ...], rows: int) -> Held | None:
        """What the term holds in memory with so many pairs (`rows`) of a shape (C, H, W).

        None if it holds next to nothing.
        """
        return None
