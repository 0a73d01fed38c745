"""From the settings and a loaded teacher to the method and its networks."""

from dataclasses import replace
from typing import Any

import torch

from pipeline.config import DistillConfig, NetworkConfig
from pipeline.methods.dmd import DMD
from pipeline.methods.recipe import Recipe
from pipeline.methods.terms.augmentation import Augmentation
from pipeline.methods.terms.diversity import Diversity
from pipeline.methods.terms.isg import ISG
from pipeline.methods.terms.regression import Regression
from pipeline.methods.terms.reward import REWARDS, Reward
from pipeline.methods.terms.term import Term
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser
from pipeline.models.network import Network
from pipeline.models.perceptual.distance import new_distance
from pipeline.models.students import few_step_sampler, new_critic, new_student
from pipeline.utils.errors import UserError, first_line


def build_method(distill: DistillConfig, teacher: Denoiser, device: torch.device) -> DMD:
    """The method of a run; a perceptual distance is read where pairs are needed alone.

    Args:
        distill: The settings.
        teacher: Whose schedule, prediction, shape and conditions it has.
        device: Of the networks that its terms have of their own.

    Raises:
        UserError: If the weights of the distance cannot be read or do not fit the teacher, its
            schedule has no such times as the student's, a range of noise levels has none of a
            step's, or as `new_reward`, `Augmentation.levels`, `ISG.check` and `Diversity.way`.
    """
    recipe = Recipe.of(distill)
    terms = (_with_networks(term, recipe, teacher, device) for term in recipe.terms)
    recipe = replace(recipe, terms=tuple(terms))
    steps = few_step_sampler(teacher.schedule, distill.student)
    method = DMD(
        teacher.schedule, teacher.error_weight, teacher.shape, teacher.conditioner, recipe, steps
    )
    _check_levels(method)
    return method


def _with_networks(
    term: Term[Any], recipe: Recipe, teacher: Denoiser, device: torch.device
) -> Term[Any]:
    """The term with its own networks, and tried on the teacher; raises as `build_method`."""
    distill = recipe.distill
    match term:
        case Regression() if recipe.needs.pairs:
            distance = new_distance(distill.regression, teacher, device, bool(distill.recompute))
            return replace(term, distance=distance)
        case Reward():
            return new_reward(term, teacher, device)
        case Augmentation() if term.active:
            for step in range(len(distill.student.times or (0,))):
                term.levels(step, teacher.schedule)
        case ISG():
            term.check(teacher.schedule)
        case Diversity():
            for shape in teacher.buckets.shapes:
                term.way(teacher.at(shape).schedule)
    return term


def _check_levels(method: DMD) -> None:
    """Each of the student's steps has noise levels in both ranges; raises as `build_method`."""
    distill = method.recipe.distill
    for step, time in enumerate(method.sampler.timesteps):
        space = method.space(step)
        for name, ends in (("matching", distill.matching.range), ("critic", distill.critic.range)):
            low, high = space.within(ends)
            if low >= high:
                raise UserError(
                    f"distill.{name}.range: {list(ends)} has none of the noise levels "
                    f"{space.levels[0]:.2f} to {space.levels[1]:.2f} of the student's step at "
                    f"{time:g} (distill.student.levels); widen it"
                )


def new_reward(term: Reward, teacher: Denoiser, device: torch.device) -> Reward:
    """The term with the model that its settings name.

    Args:
        term: From the settings alone.
        teacher: Whose images or latents are rewarded.
        device: Of the student.

    Raises:
        UserError: If the model cannot be made, or as `Reward.tried`.
    """
    name = term.settings.reward
    try:
        model = REWARDS[name]().eval().requires_grad_(False).to(device)
    except Exception as error:  # whatever a module from outside may come to
        raise UserError(
            f"distill.terms.reward.reward: cannot make {name}: {first_line(error)}; mend it"
        ) from error
    ready = replace(term, model=model, latents=teacher.latents, conditioner=teacher.conditioner)
    return ready.tried(teacher.shape)


def new_networks(
    distill: DistillConfig, network: NetworkConfig, seed: int, teacher: Denoiser
) -> tuple[Network, Network | Critic]:
    """Student and critic as they begin, copies of the teacher on its device."""
    critic = new_critic(teacher, network, seed, distill)
    return new_student(teacher, network, seed, distill.student, distill.recompute), critic
