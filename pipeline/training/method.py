"""From the settings and a loaded teacher to the method and its networks."""

from dataclasses import replace

import torch

from pipeline.config import DistillConfig, NetworkConfig
from pipeline.methods.dmd import DMD
from pipeline.methods.recipe import Recipe
from pipeline.methods.terms.regression import Regression
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser
from pipeline.models.network import Network
from pipeline.models.perceptual.distance import new_distance
from pipeline.models.students import few_step_sampler, new_critic, new_student


def build_method(distill: DistillConfig, teacher: Denoiser, device: torch.device) -> DMD:
    """The method of a run; a perceptual distance is read where pairs are needed alone.

    Args:
        distill: The settings.
        teacher: Whose schedule, prediction, shape and conditions it has.
        device: Of the networks that its terms have of their own.

    Raises:
        UserError: If the weights of the distance cannot be read or do not fit the teacher, or its
            schedule has no such times as the student's.
    """
    recipe = Recipe.of(distill)
    if recipe.needs.pairs:
        distance = new_distance(distill.regression, teacher, device, bool(distill.recompute))
        terms = (
            replace(term, distance=distance) if isinstance(term, Regression) else term
            for term in recipe.terms
        )
        recipe = replace(recipe, terms=tuple(terms))
    steps = few_step_sampler(teacher.schedule, distill.student)
    return DMD(
        teacher.schedule, teacher.error_weight, teacher.shape, teacher.conditioner, recipe, steps
    )


def new_networks(
    distill: DistillConfig, network: NetworkConfig, seed: int, teacher: Denoiser
) -> tuple[Network, Network | Critic]:
    """Student and critic as they begin, copies of the teacher on its device."""
    critic = new_critic(teacher, network, seed, distill)
    return new_student(teacher, network, seed, distill.student, distill.recompute), critic
