"""Student and critic: copies of the teacher that learn, and students that are saved."""

import copy
import math
from pathlib import Path
from typing import Any

import torch

from pipeline.config import (
    CriticConfig,
    DistillConfig,
    NetworkConfig,
    StudentConfig,
    TeacherConfig,
)
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import EDM, Flow, Schedule
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.recipe import Recipe
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser
from pipeline.models.export.save import PROVENANCE, read_provenance
from pipeline.models.families.edm import new_unet
from pipeline.models.loading import load_denoiser
from pipeline.models.lora import adapted
from pipeline.models.network import Network
from pipeline.models.recompute import recompute_blocks
from pipeline.utils.errors import UserError

_OF_TEACHERS = {"training", "imported"}
"""In the provenance of what jobs/teacher.py saved."""


def load_student(
    folder: str | Path,
    teacher: TeacherConfig | None = None,
    embedded_guidance: float | None = None,
) -> Denoiser:
    """A saved student, in eval mode and without gradients.

    Arguments as `load_denoiser`, and the embedded guidance of one that does not say its own.

    Raises:
        UserError: As `load_denoiser`, or if it is a teacher.
    """
    made: Any = {}
    if (Path(folder) / PROVENANCE).is_file():
        made = read_provenance(folder) or {}
    if _OF_TEACHERS & made.keys():
        raise UserError(
            f"evaluate.student: {folder} is a teacher, as its {PROVENANCE} says; name a folder "
            "that jobs/distill.py or jobs/export.py saved"
        )
    saved = load_denoiser(folder, "run jobs/distill.py, or set evaluate.student", teacher)
    own = made.get("distill", {}).get("student", {})
    student: Network = saved.with_guidance(own.get("embedded_guidance", embedded_guidance))
    if times := own.get("times"):
        sampler = FewStepSampler(student.schedule, tuple(times), own["renoise"])
        student = student.with_sampler(sampler)
    return student.eval().requires_grad_(False)


def check_student(student: Denoiser, teacher: Denoiser, uri: str = "the student") -> None:
    """Refuse a student of another teacher; `uri` says where it is.

    Raises:
        UserError: If its images or conditions are others.
    """
    if (student.shape, student.classes) != (teacher.shape, teacher.classes):
        raise UserError(
            f"evaluate.student: {uri} makes {student.shape} images of {student.classes} classes, "
            f"its teacher {teacher.shape} of {teacher.classes}; name the student of this teacher"
        )


def new_student(
    teacher: Denoiser,
    network: NetworkConfig,
    seed: int,
    settings: StudentConfig | CriticConfig | None = None,
    recompute: bool | int = False,
) -> Network:
    """A trainable copy of the teacher; for an analytic teacher, a small network from scratch.

    The critic starts as a student too: all three networks have one architecture. With
    `recompute` the backward pass makes the activations of all blocks, or of every n-th one, again
    instead of keeping them; `settings` may give a student times of its own, both another guidance
    where that is an input, and adapters: only these are then trainable, and all else is shared with
    the teacher.

    Raises:
        UserError: If the schedule has no such times; as `adapted`.
    """
    student: Network
    if isinstance(teacher, Network) and settings is not None:
        teacher = teacher.with_guidance(settings.embedded_guidance)
    if isinstance(teacher, Network) and settings is not None and settings.lora.rank is not None:
        whose = "student" if isinstance(settings, StudentConfig) else "critic"
        student = adapted(teacher, settings.lora, whose, seed)
    elif isinstance(teacher, Network):
        student = copy.deepcopy(teacher).requires_grad_(True)  # in eval mode: no dropout
    else:
        student = new_unet(network, teacher.shape, teacher.classes, seed)
    if isinstance(settings, StudentConfig):
        student = student.with_sampler(few_step_sampler(student.schedule, settings))
    for backbone in student.networks.values() if recompute else ():
        recompute_blocks(backbone, int(recompute))
    return student


def new_critic(
    teacher: Denoiser, network: NetworkConfig, seed: int, distill: DistillConfig
) -> Network | Critic:
    """A trainable copy of the teacher for the fake score.

    A `Critic` where a term needs heads, fresh ones, or for a student of several steps.

    Arguments and errors as `new_student`.
    """
    first = teacher.at(teacher.buckets.shapes[0])  # its heads do not depend on what is pictured
    denoiser = new_student(first, network, seed, distill.critic, distill.recompute)
    exits = len(distill.student.times or (None,))
    heads = Recipe.of(distill).needs.heads
    if not heads and exits == 1:
        return denoiser
    blocks = distill.gan.blocks if heads else ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator("heads", seed).initial_seed())
        return Critic(denoiser, blocks, exits, distill.gan.heads == "learnt")


def few_step_sampler(schedule: Schedule, student: StudentConfig) -> FewStepSampler | None:
    """The student's own way from noise to images, if the settings give it one.

    Raises:
        UserError: If the schedule has no such times.
    """
    if student.times is None:
        return None
    apart = None
    match schedule:
        case EDM(sigma_min=low, sigma_max=high):
            known, unit = (low, high), "sigmas"
        case Flow(steps_table=table) if schedule.whole:  # between them its network is not asked
            known, apart, unit = (1 / table, 1.0), 1 / table, f"multiples of 1/{table}"
        case Flow():
            known, unit = (1 / schedule.steps_table, 1.0), "shares of noise"
        case _:
            known, apart, unit = (0.0, schedule.start), 1.0, "whole training times"
    for time in student.times:
        if not known[0] <= time <= known[1] or (apart and abs(math.remainder(time, apart)) > 1e-9):
            raise UserError(
                f"distill.student.times: {time:g} is no time of the teacher; it has {unit} from "
                f"{known[0]:g} to {known[1]:g}"
            )
    return FewStepSampler(schedule, student.times, student.renoise)
