"""From the settings and a loaded teacher to the method."""

from dataclasses import replace

import torch

from pipeline.config import DistillConfig
from pipeline.methods.dmd import DMD
from pipeline.methods.recipe import Recipe
from pipeline.methods.terms.regression import Regression
from pipeline.models.denoiser import Denoiser
from pipeline.models.perceptual.distance import new_distance
from pipeline.models.students import few_step_sampler


def build_method(distill: DistillConfig, teacher: Denoiser, device: torch.device) -> DMD:
    """The method of a run; a perceptual distance is read where pairs are needed alone.

    Args:
        distill: The settings.
        teacher: Whose schedule, shape and conditions it has.
        device: Of the networks that its terms have of their own.

    Raises:
        UserError: If the weights of the distance cannot be read or do not fit the teacher, or its
            schedule has no such times as the student's.
    """
    recipe = Recipe.of(distill)
    if recipe.needs.pairs:
        distance = new_distance(distill.regression, teacher, device, distill.recompute)
        terms = (
            replace(term, distance=distance) if isinstance(term, Regression) else term
            for term in recipe.terms
        )
        recipe = replace(recipe, terms=tuple(terms))
    steps = few_step_sampler(teacher.schedule, distill.student)
    return DMD(teacher.schedule, teacher.shape, teacher.conditioner, recipe, steps)
