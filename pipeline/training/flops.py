"""Floating-point operations (FLOPs) of a training step, from the networks' own counts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipeline.config import DistillConfig, NetworkConfig
from pipeline.diffusion.condition import Inputs
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import StepPlan
from pipeline.methods.terms.term import Term
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser, blank
from pipeline.models.frozen import meta_copy
from pipeline.models.network import Network
from pipeline.training.flop_counter import Passes, counted, passes
from pipeline.training.method import build_method, new_networks
from pipeline.utils.errors import first_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFlops:
    """FLOPs of one image through all that a step has.

    Attributes:
        teacher, student, critic: Through each network.
        judging: Through the critic as it learns: where there is a GAN, its heads judge in the same
            pass.
        features: Through the critic up to the features that its heads judge, and through these.
        terms: By their names, through a loss's own networks there and back.
    """

    teacher: Passes
    student: Passes
    critic: Passes
    judging: Passes
    features: Passes
    terms: dict[str, int]


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of a run's steps, all workers together.

    Args:
        method: Whose recipe says how many images go where.
        guided: Images through the teacher for one prediction: 2 under guidance, else 1.
        seed: Of the run.
        shares: Of each shape of its images, with what one of it takes; their sum is 1.
    """

    method: DMD
    guided: int
    seed: int
    shares: Sequence[tuple[float, ImageFlops]]

    def __call__(self, step: int) -> float:
        """Of a step, counted from 0."""
        return self._of(self.method.plan(step), self.method.step_index_at(self.seed, step))

    @property
    def cycle(self) -> float:
        """The mean of the last phase, in which the student learns in every n-th step."""
        return self._mean(0, self.method.recipe.distill.steps)

    @property
    def run(self) -> float:
        """Of all steps."""
        distill = self.method.recipe.distill
        ends = [distill.regression_steps, distill.burn_in_steps, distill.steps]
        ends[1] += ends[0]
        return sum((end - begin) * self._mean(begin, end) for begin, end in pairwise([0, *ends]))

    def _mean(self, begin: int, end: int) -> float:
        """Of a phase, from one step up to another: of its last cycle, and of all timesteps."""
        last = range(max(begin, end - self.method.recipe.distill.student.every), end)
        indices = range(len(self.method.sampler.timesteps))
        every = [self._of(self.method.plan(step), index) for step in last for index in indices]
        return sum(every) / max(1, len(every))

    def _of(self, plan: StepPlan, index: int) -> float:
        return sum(share * self._images(plan, index, each) for share, each in self.shares)

    def _images(self, plan: StepPlan, index: int, each: ImageFlops) -> float:
        """Of a step, if all its images were of one shape.

        In the student's turn no other network's weights learn, and in the critic's all of it does.
        """
        recipe = self.method.recipe
        plan = recipe.at(plan, index)
        first = recipe.step_calls(replace(plan, critic=False), index, self.guided)
        both = recipe.step_calls(plan, index, self.guided)
        learning = both + first * -1
        return (
            both.teacher * each.teacher.forward
            + both.teacher_backward * each.teacher.to_image
            + both.student * each.student.forward
            + both.student_backward * each.student.to_weights
            + first.critic * each.critic.forward
            + first.critic_backward * each.critic.to_image
            + learning.critic * each.judging.forward
            + learning.critic_backward * each.judging.to_weights
            + both.features * each.features.forward
            + first.features_backward * each.features.to_image
            + learning.features_backward * each.features.to_weights
            + recipe.distill.batch_size * sum(each.terms[name] for name in plan.on_samples)
            + sum(recipe.pair_rows * each.terms[name] for name in plan.on_pairs)
        )


def planned_flops(
    distill: DistillConfig, network: NetworkConfig, seed: int, guidance: float, teacher: Denoiser
) -> "StepFlops | None":
    """As `step_flops`, of networks that are yet to be made.

    Args:
        distill, network, seed: Settings of a run.
        guidance: As `pairs.guidance`.
        teacher: Loaded.
    """
    student, critic = new_networks(distill, network, seed, meta_copy(teacher))
    method = build_method(distill, teacher, torch.device("meta"))
    return step_flops(method, (teacher, student.to("meta"), critic.to("meta")), guidance, seed)


def step_flops(
    method: DMD,
    networks: tuple[Denoiser, Network, Network | Critic],
    guidance: float,
    seed: int,
) -> "StepFlops | None":
    """Count the networks of a run; None where that cannot be, and a warning says why.

    Conditions are as long as that of the first label.

    Args:
        method: Its losses.
        networks: Teacher, student and critic as training begins, whole; they stay as they are.
        guidance: As `pairs.guidance`.
        seed: Of the run.
    """
    teacher, student, _ = networks
    guided = 1 if guidance == 1 else 2
    buckets, every = teacher.buckets, sum(teacher.buckets.weights)
    try:
        at_meta = [meta_copy(each) for each in networks]
        shares = []
        for shape, weight in zip(buckets.shapes, buckets.weights, strict=True):
            x_t, t, condition = blank(student.at(shape), 1)
            given = Inputs(x_t.to("meta"), t.to("meta"), condition.to("meta"))
            shares.append((weight / every, _of_image(method, given, *at_meta)))
    except Exception as error:  # a figure in the log is not worth a run
        log.warning("no tflops: the networks cannot be counted (%s)", first_line(error))
        return None
    return StepFlops(method, guided, seed, shares)


def _of_image(method: DMD, given: Inputs, teacher: Any, student: Any, critic: Any) -> ImageFlops:
    """Of the shape of what is given, on the meta device."""
    image, t, condition = given
    last = len(method.sampler.timesteps) - 1
    taught = method.recipe.step_calls(replace(method.recipe.both, critic=False), last)

    def judge(x_t: Tensor) -> Tensor:
        x0, logits = critic.denoise_and_logits(Inputs(x_t, t, condition))
        return x0.sum() + logits.sum()

    alone = passes(lambda x_t: critic(x_t, t, condition), image, taught.critic_backward)
    features, judging = Passes(), alone
    if isinstance(critic, Critic) and critic.heads:
        features = passes(lambda x_t: critic.logits(Inputs(x_t, t, condition)), image)
        judging = passes(judge, image, to_image=False)
    return ImageFlops(
        teacher=passes(
            lambda x_t: teacher(x_t, t, condition), image, taught.teacher_backward, False
        ),
        student=passes(lambda x_t: student(x_t, t, condition), image, False),
        critic=alone,
        judging=judging,
        features=features,
        terms={term.name: _of_term(term, tuple(image.shape[1:])) for term in method.terms},
    )


def _of_term(term: Term[Any], shape: tuple[int, ...]) -> int:
    """Of a loss's own networks, where it has some."""
    held = term.held(shape, 1)
    if held is None:
        return 0
    forward, loss = counted(held.call)
    return forward + counted(loss.sum().backward)[0]
