"""The figures of an evaluation: student, teacher and real images against each other."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from pipeline.classifier import Classifier, accuracy, read, train_classifier
from pipeline.config import Config
from pipeline.data.images import RealImages, load_images
from pipeline.diffusion import seeds
from pipeline.errors import UserError
from pipeline.metrics import frechet_distance, precision_recall
from pipeline.models.denoiser import Denoiser
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.progress import progress

Generate = Callable[[Tensor, Tensor | None], Tensor]
"""(noise (B, C, H, W), labels (B,) int64 or None) -> images, same shape, on the CPU."""


@dataclass(frozen=True)
class Images:
    """Images to compare, row by row from the same noise and label.

    Attributes:
        noise: Unit-variance noise, (N, C, H, W).
        labels: Classes, (N,) int64, or None for unconditional networks.
        student, teacher: What they make of it, (N, C, H, W), in about [-1, 1].
    """

    noise: Tensor
    labels: Tensor | None
    student: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Judge:
    """Real images and the classifier trained on them."""

    real: RealImages
    classifier: Classifier


def real_judge(config: Config, teacher: Denoiser) -> Judge | None:
    """The judge of the images the teacher learnt from; an analytic one has learnt from none.

    Raises:
        UserError: If the images cannot be loaded, or are not of the teacher's kind.
    """
    data = config.data
    if data.name is None or config.teacher.kind == "gaussian":
        return None
    real = load_images(data.name, data.size, data.folder)
    shape = tuple(real.images.shape[1:])
    if shape != teacher.shape or teacher.classes not in (None, real.classes):
        raise UserError(
            f"data.name: {data.name} has {shape} images of {real.classes} classes, the "
            f"teacher in {config.teacher.output} makes {teacher.shape} of {teacher.classes}; "
            "name the set and size it learnt from"
        )
    return Judge(real, train_classifier(real.images, real.labels, real.classes))


def generators(config: Config, student: Denoiser, teacher: Denoiser) -> tuple[Generate, Generate]:
    """Student and teacher as functions from noise to images, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher, pairs = student.to(device), teacher.to(device), config.pairs

    def place(labels: Tensor | None) -> Tensor | None:
        return None if labels is None else labels.to(device)

    def by_student(noise: Tensor, labels: Tensor | None) -> Tensor:
        return sample_student(student, noise.to(device), place(labels)).cpu()

    def by_teacher(noise: Tensor, labels: Tensor | None) -> Tensor:
        start, labels = noise.to(device), place(labels)
        images = sample_teacher(teacher, start, labels, pairs.solver, pairs.steps, pairs.guidance)
        return images.cpu()

    return by_student, by_teacher


def generate(
    by: Generate, noise: Tensor, labels: Tensor | None, batch_size: int, label: str
) -> Tensor:
    """Images of all the noise, (N, C, H, W), a batch at a time, with progress.

    Raises:
        UserError: If an image is not finite.
    """
    images = []
    with progress(len(noise), label, "images") as bar:
        for first in range(0, len(noise), batch_size):
            rows = slice(first, first + batch_size)
            images.append(by(noise[rows], None if labels is None else labels[rows]))
            if not images[-1].isfinite().all():
                raise UserError(
                    f"{label}: images {first} and following are not finite; train it again, "
                    "with a lower learning rate"
                )
            bar.update(len(images[-1]))
    return torch.cat(images)


@dataclass(frozen=True)
class AgainstTeacher:
    """Student against teacher, n_teacher images of each.

    Fréchet distances (fd) are in squared units of the features: the classifier's 64, or the
    pixels where there are no real images. Those at different n are not to be compared.

    Attributes:
        fd_teacher, pixel_fd: From the same noise and labels, on features and on pixels.
        fd_floor, pixel_fd_floor: Teacher against teacher, same labels and other noise.
        accuracy, teacher_accuracy: Part of the images classified as their label.
        n_teacher: Images of each.
    """

    fd_teacher: float
    fd_floor: float
    pixel_fd: float
    pixel_fd_floor: float
    accuracy: float | None
    teacher_accuracy: float | None
    n_teacher: int


@dataclass(frozen=True)
class AgainstReal:
    """Student and teacher against the real training images; all None where there are none.

    Attributes:
        fd_real, teacher_fd_real: Fréchet distances, with the real images' labels.
        real_floor: Random half of the real images of each class against the other half, mean
            of 10 splits.
        precision, recall, teacher_precision, teacher_recall: Against all real images, k = 3.
        classifier_accuracy: On real images that it was not trained on.
        n_real: Real images, and images of student and of teacher.
        n_real_floor: Images in a half.
    """

    fd_real: float | None = None
    teacher_fd_real: float | None = None
    real_floor: float | None = None
    precision: float | None = None
    recall: float | None = None
    teacher_precision: float | None = None
    teacher_recall: float | None = None
    classifier_accuracy: float | None = None
    n_real: int | None = None
    n_real_floor: int | None = None


@dataclass(frozen=True)
class Speed:
    """Median times of one image (batch 1), in milliseconds, and their ratio."""

    latency_ms: float
    teacher_latency_ms: float
    speedup: float


def against_teacher(images: Images, other: Tensor, judge: Judge | None) -> AgainstTeacher:
    """Compare a student with its teacher.

    Args:
        images: Of both, from the same noise.
        other: The teacher's images from other noise and the same labels, (N, C, H, W).
        judge: For features and accuracy; without one the features are the pixels.
    """
    student, teacher, again = (x.flatten(1) for x in (images.student, images.teacher, other))
    pixel_fd, pixel_fd_floor = frechet_distance(teacher, student), frechet_distance(teacher, again)
    fd, fd_floor, right, teacher_right = pixel_fd, pixel_fd_floor, None, None
    if judge is not None:
        by_student, by_teacher, by_other = (
            read(judge.classifier, x) for x in (images.student, images.teacher, other)
        )
        fd = frechet_distance(by_teacher.features, by_student.features)
        fd_floor = frechet_distance(by_teacher.features, by_other.features)
        if images.labels is not None:
            right = accuracy(by_student.logits, images.labels)
            teacher_right = accuracy(by_teacher.logits, images.labels)
    return AgainstTeacher(
        fd, fd_floor, pixel_fd, pixel_fd_floor, right, teacher_right, len(teacher)
    )


def against_real(images: Images, judge: Judge) -> AgainstReal:
    """Compare a student and its teacher with as many real images of the same labels."""
    real = read(judge.classifier, judge.real.images).features
    student = read(judge.classifier, images.student).features
    teacher = read(judge.classifier, images.teacher).features
    by_student, by_teacher = precision_recall(real, student), precision_recall(real, teacher)
    held_out = read(judge.classifier, judge.real.test_images).logits
    return AgainstReal(
        fd_real=frechet_distance(real, student),
        teacher_fd_real=frechet_distance(real, teacher),
        real_floor=half_against_half(real, judge.real.labels),
        precision=by_student.precision,
        recall=by_student.recall,
        teacher_precision=by_teacher.precision,
        teacher_recall=by_teacher.recall,
        classifier_accuracy=accuracy(held_out, judge.real.test_labels),
        n_real=len(real),
        n_real_floor=len(real) // 2,
    )


def half_against_half(features: Tensor, labels: Tensor, splits: int = 10) -> float:
    """Mean Fréchet distance of random halves, each class split evenly.

    Args:
        features: (N, D).
        labels: Classes, (N,) int64: as in the other distances, both sides have the same.
        splits: Number of random splits.
    """
    rng, total = seeds.generator("halves"), 0.0
    for _ in range(splits):
        order = (labels + torch.rand(len(labels), generator=rng)).argsort()
        order = order[: len(order) // 2 * 2]
        total += frechet_distance(features[order[0::2]], features[order[1::2]])
    return total / splits


def compare_speed(
    student: Generate, teacher: Generate, noise: Tensor, labels: Tensor | None, repeats: int = 20
) -> Speed:
    """Time both on the same input, turn by turn, after three rounds of warm-up.

    Args:
        student: What to time; an answer on the CPU ends the time of a GPU too.
        teacher: The same.
        noise: One noise, (1, C, H, W).
        labels: Its class, (1,) int64, or None.
        repeats: Rounds that count.
    """
    rounds = []
    with progress(repeats + 3, "latency", "rounds") as bar:
        for _ in range(repeats + 3):
            start = time.perf_counter()
            student(noise, labels)
            middle = time.perf_counter()
            teacher(noise, labels)
            rounds.append((middle - start, time.perf_counter() - middle))
            bar.update(1)
    one, many = (1000 * median(times) for times in zip(*rounds[3:], strict=True))
    return Speed(latency_ms=one, teacher_latency_ms=many, speedup=many / one)
