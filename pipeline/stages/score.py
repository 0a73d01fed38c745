"""How good a checkpoint is: its averaged student against the teacher."""

import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.diffusion import seeds
from pipeline.evaluation.classifier import read
from pipeline.evaluation.generate import generate, generators
from pipeline.evaluation.metrics.frechet import frechet_distance
from pipeline.evaluation.real import open_training_images
from pipeline.methods.recipe import Recipe
from pipeline.models.denoiser import Denoiser
from pipeline.runs.checkpoint_store import Score
from pipeline.runs.run import Run
from pipeline.utils.errors import UserError


def score(config: Config, name: str, floor: float | None = None) -> Score:
    """Compare `distill.scoring.count` images of a checkpoint's averaged student.

    The teacher's images are those of the pairs; of a run without pairs, it makes them. The
    student has the same labels and noise of its own. The floor is the teacher's distance to
    itself: images of other noise and the same labels.

    Args:
        config: Of the run.
        name: Of the checkpoint.
        floor: Where it is known from an earlier score of the run, so that the teacher need not
            make its images again.

    Raises:
        UserError: If the checkpoint is gone, or teacher, pairs or real images cannot be read.
    """
    scoring, run = config.distill.scoring, Run(config)
    teacher = run.load_teacher()
    with run.checkpoints.newest(only=name) as found:
        if found is None:
            raise UserError(f"the checkpoint {name} is gone")
        student = run.stored_student(teacher, found[1])
    by_student, by_teacher = generators(student, teacher, config.pairs)
    if Recipe.of(config.distill).needs.pairs:
        count = min(scoring.count, run.pairs.manifest.of(teacher.shape).count)
        pairs = run.pairs.reader(config.seed, count, teacher.shape).batch(0)
        labels, target = pairs.labels, pairs.images
    else:
        count = scoring.count
        labels = torch.arange(count) % teacher.classes if teacher.classes else None
        noise = _noise(config.seed, teacher, count, count)
        target = generate(by_teacher, noise, labels, scoring.batch_size, "teacher")
    noise = _noise(config.seed, teacher, 0, count)
    images = [generate(by_student, noise, labels, scoring.batch_size, "student")]
    if floor is None:
        noise = _noise(config.seed, teacher, 2 * count, count)
        images.append(generate(by_teacher, noise, labels, scoring.batch_size, "teacher, for floor"))
    features = "pixels" if teacher.latents is None else "latents"
    if (real := open_training_images(config.teacher, config.data, teacher)) is not None:
        features = f"features of a classifier of {config.data.name}"
        classifier = real.train_classifier()
        target, *images = (read(classifier, each).features for each in (target, *images))
    distance, *again = (frechet_distance(target.flatten(1), each.flatten(1)) for each in images)
    return Score(distance, count, again[0] if again else floor, features)


def _noise(seed: int, teacher: Denoiser, first: int, count: int) -> Tensor:
    ids = torch.arange(first, first + count)
    return seeds.noise(seed, ids, teacher.shape, seeds.SCORE)
