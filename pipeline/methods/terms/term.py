"""A term: one loss of the method, and all that belongs to it, in one file.

Its settings, what it needs, its rules, what it draws, its loss and its network calls stand in its
class. Whoever plans, prices, checks or trains asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pipeline.diffusion.condition import Condition, Inputs
from pipeline.diffusion.noise import Schedule
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.microbatch import Microbatch, NoiseSample, StepPlan
from pipeline.methods.samples import SamplesSeen
from pipeline.utils.fields import Branch

S = TypeVar("S", bound=Branch)


class StudentSettings(Protocol):
    """Of the student: how often it learns, and at which times it is asked."""

    @property
    def every(self) -> int: ...
    @property
    def times(self) -> tuple[float, ...] | None: ...


class MethodSettings(Protocol):
    """What a method reads of the settings `distill`, beside its terms' own."""

    @property
    def steps(self) -> int: ...
    @property
    def regression_steps(self) -> int: ...
    @property
    def burn_in_steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def draws(self) -> Literal["separate", "shared"]: ...
    @property
    def student(self) -> StudentSettings: ...
    @property
    def terms(self) -> Mapping[str, Branch]: ...


@dataclass(frozen=True)
class Needs:
    """What a term needs beside student, teacher and critic.

    Attributes:
        pairs: Stored pairs.
        real: Real images, in the critic's steps.
        heads: Of the critic, so that it judges images too.
    """

    pairs: bool = False
    real: bool = False
    heads: bool = False

    def __or__(self, other: Needs) -> Needs:
        """What either of two needs."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Needs(*(mine or theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class NetworkCalls:
    """Images that go through the networks, forward and backward.

    `features` are the critic's calls that end at the judged features.
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
        """Both together."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return NetworkCalls(*(mine + theirs for mine, theirs in pairs))

    def __mul__(self, times: float) -> NetworkCalls:
        """So many times as often."""
        return NetworkCalls(*(times * each for each in astuple(self)))

    def evaluations(self) -> tuple[float, float]:
        """In calls of the teacher, and of student and critic, as long as a forward pass.

        A backward pass counts as two, and one to the judged features as half of a whole one.
        """
        features = 0.5 * (self.features + 2 * self.features_backward)
        critic = self.critic + 2 * self.critic_backward + features
        student = self.student + 2 * self.student_backward
        return self.teacher + 2 * self.teacher_backward, student + critic


@dataclass(frozen=True)
class Held:
    """What a term holds in memory.

    Attributes:
        networks: Its own, on the meta device.
        shared: Those of the teacher that it calls too, on the meta device.
        call: A call of its loss there, for one row.
        rows: For how many rows it keeps the activations.
    """

    networks: Sequence[nn.Module]
    call: Callable[[], object]
    rows: int
    shared: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Space:
    """Where a term draws.

    Attributes:
        schedule: Of all three networks.
        shape: One image, (C, H, W).
        real: Real images (B, C, H, W) and their condition, if a term needs them in this step.
    """

    schedule: Schedule
    shape: tuple[int, int, int]
    real: tuple[Tensor, Condition] | None = None

    def at(self, uniform: NoiseSample, ends: tuple[float, float]) -> NoiseSample:
        """Where to diffuse to, of uniform numbers in [0, 1) for the times.

        Args:
            uniform: These, and the noise.
            ends: Of the times, as fractions of `Schedule.time_from_fraction`.
        """
        low, high = ends
        return replace(uniform, t=self.schedule.time_from_fraction(low + (high - low) * uniform.t))


@dataclass(frozen=True)
class CriticPass:
    """What the critic said in its step.

    Attributes:
        x0: Its prediction at the diffused samples, (B, C, H, W), with gradient.
        logits: Of these and of the images `judged_with`, (rows, heads); None without heads.
        weight: Of every sample's denoising loss, (B,).
    """

    samples: Tensor
    microbatch: Microbatch
    x0: Tensor
    logits: Tensor | None
    weight: Tensor


@dataclass(frozen=True)
class Term(Generic[S]):
    """One loss of the student, of the critic, or of both.

    A subclass names its settings' class in `Settings` and has a loss for each network it teaches:
    `sample_loss` or, with `on_pairs`, `pair_loss` for the student, `critic_loss` for the critic.
    One line in `TERMS` makes it known.

    Args:
        name: In `TERMS`, in the settings and in the log.
        settings: Its own.
        distill: Those it must agree with.
    """

    Settings: ClassVar[type[Branch]]
    on_pairs: ClassVar[bool] = False
    """Whether the student's loss is on images of the pairs' noise, not of fresh noise."""

    name: str
    settings: S
    distill: MethodSettings

    @property
    def active(self) -> bool:
        """Whether the settings ask for it at all."""
        return True

    @property
    def weight(self) -> float:
        """Of the student's loss when both networks learn; at 0 it is not computed."""
        return 0.0

    @property
    def weight_alone(self) -> float:
        """Of the loss on pairs in the first phase."""
        return 0.0

    def needs(self) -> Needs:
        """What it cannot do without."""
        return Needs()

    def problems(self) -> Iterator[str]:
        """Settings that do not agree: lines that begin with one and end with the way out."""
        yield from ()

    def calls(self, plan: StepPlan, guided: int) -> NetworkCalls:
        """Of one step, all its microbatches together.

        The student's calls are the method's, for the terms share them.

        Args:
            plan: Of the step.
            guided: Images through the teacher for one prediction: 2 under guidance, else 1.
        """
        return NetworkCalls()

    def draw(self, microbatch: Microbatch, rng: torch.Generator, space: Space) -> Microbatch:
        """The microbatch with its random numbers, in `draws` under its name.

        Args:
            microbatch: With what the terms before have drawn.
            rng: Of the built-in terms together; another term has its own.
            space: Where it draws.
        """
        return microbatch

    def joins(self, plan: StepPlan, microbatch: Microbatch) -> bool:
        """Whether the critic shall judge the samples in the pass in which it denoises them."""
        return False

    def weigh(self, losses: Tensor, logits: Tensor) -> Tensor:
        """Matching losses (B,), weighted by logits (B, heads) of the same diffused samples."""
        return losses

    def pair_loss(self, images: Tensor, pairs: PairBatch) -> Tensor:
        """Of the student's images (B, C, H, W) of the pairs' noise, ()."""
        raise NotImplementedError

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the student's samples, (), with a gradient to `seen.x0`; and detached scalars."""
        raise NotImplementedError

    def judged_with(
        self, microbatch: Microbatch, samples: Tensor, schedule: Schedule
    ) -> Inputs | None:
        """What the critic judges in its step beside the samples (B, C, H, W)."""
        return None

    def critic_loss(self, seen: CriticPass) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The critic's, (), and detached scalars; None if it teaches the student alone."""
        return None

    def held(self, shape: tuple[int, int, int], rows: int) -> Held | None:
        """What it holds in memory for so many images of a shape; None: nothing to speak of."""
        return None
