"""The images of an evaluation: made batch by batch, and read into features at once."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config import Config
from pipeline.data.images import RealImages, load_images
from pipeline.diffusion import seeds
from pipeline.errors import UserError
from pipeline.evaluation.classifier import Classifier, read, train_classifier
from pipeline.evaluation.reference import Reference, open_reference
from pipeline.evaluation.sketch import Rows
from pipeline.evaluation.speed import Generate, peak_mib
from pipeline.models.clip import Clip, load_clip
from pipeline.models.denoiser import Denoiser
from pipeline.models.features import FeatureNet, load_features
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.progress import progress

PIXELS = 3 * 32 * 32
"""Numbers of the largest images that are compared pixel by pixel: beyond, a covariance of pixels
takes much memory and time and says little."""

Source = Literal["teacher", "student", "floor", "teacher_real", "student_real", "real", "held_out"]
"""Who makes images: student and teacher from the same noise, the teacher from other noise, both
with the labels of the real images; the real images, and those no network has learnt from."""


@dataclass(frozen=True)
class Judge:
    """Real images that a small teacher learnt from, and the classifier trained on them."""

    real: RealImages
    classifier: Classifier

    def fingerprint(self) -> str:
        """SHA-256 of the training images and their labels."""
        digest = hashlib.sha256(self.real.images.numpy().tobytes())
        digest.update(self.real.labels.numpy().tobytes())
        return digest.hexdigest()


def real_judge(
    config: Config, teacher: Denoiser, classifier: Classifier | None = None
) -> Judge | None:
    """The judge of the images the teacher learnt from; an analytic one has learnt from none.

    Args:
        config: Names the images.
        teacher: What they must fit.
        classifier: One that is trained on them already.

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
    return Judge(real, classifier or train_classifier(real.images, real.labels, real.classes))


def generators(config: Config, student: Denoiser, teacher: Denoiser) -> tuple[Generate, Generate]:
    """Student and teacher as functions from noise to images, on the GPU where there is one."""
    place_on, pairs = device(), config.pairs
    student, teacher = student.to(place_on), teacher.to(place_on)

    def place(labels: Tensor | None) -> Tensor | None:
        return None if labels is None else labels.to(place_on)

    def by_student(noise: Tensor, labels: Tensor | None) -> Tensor:
        return sample_student(student, noise.to(place_on), place(labels)).cpu()

    def by_teacher(noise: Tensor, labels: Tensor | None) -> Tensor:
        start, labels = noise.to(place_on), place(labels)
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
            _check_finite(images[-1], label, first)
            bar.update(len(images[-1]))
    return torch.cat(images)


class Task(NamedTuple):
    """A batch of images: those of a source from one number to another."""

    source: Source
    first: int
    stop: int


class Batch(NamedTuple):
    """What was read of a task's images, and the most memory its process has held, in MiB."""

    task: Task
    rows: Rows
    peak: int


class Maker:
    """Makes images by their numbers and reads them.

    Args:
        config: Of the run.
        student, teacher: Its networks.
        classifier: One that is trained already, in place of a new one.
        reference: Real images that are opened already.

    Attributes:
        device: Where the networks are.
        judge: Real images of `data.name` and their classifier, or None.
        reference: Real images of `evaluate.reference`, or None; one of both at most.
        net: The network whose features are compared, or None for the classifier or pixels.
        clip: What scores images by their prompts, or None.

    Raises:
        UserError: If real images or a network cannot be loaded, or nothing could compare images of
            the teacher's size.
    """

    def __init__(
        self,
        config: Config,
        student: Denoiser,
        teacher: Denoiser,
        classifier: Classifier | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.config, self.student, self.teacher = config, student, teacher
        self.device = device()
        self.classes = teacher.classes
        self.net: FeatureNet | None = load_features(config.evaluate)
        self.clip: Clip | None = load_clip(config.evaluate, teacher.prompts)
        self.judge = real_judge(config, teacher, classifier)
        if self.judge is None and self.net is None:
            self._check_values()
        self.reference = reference or open_reference(config, teacher)
        self.by_student, self.by_teacher = generators(config, student, teacher)

    def _check_values(self) -> None:
        """Whether images can be compared by their values alone."""
        why = None
        if not self.whole_pixels:
            why = f"the teacher's {self.teacher.shape} are too large to compare their values"
        elif self.config.evaluate.reference and self.teacher.latents is not None:
            why = "the teacher's latents are no values of evaluate.reference"
        if why is not None:
            raise UserError(
                f"evaluate.features: classifier has no real images to learn from (data.name), and "
                f"{why}; use dinov2, inception or efficientnet-lite0"
            )

    @property
    def whole_pixels(self) -> bool:
        """Whether what the networks make is small enough to be compared value by value."""
        channels, height, width = self.teacher.shape
        return channels * height * width <= PIXELS

    @property
    def sources(self) -> dict[Source, int]:
        """What there is to read -> its number of images, the slowest first."""
        count = self.config.evaluate.count
        made: dict[Source, int] = {"teacher": count, "floor": count, "student": count}
        if self.judge is not None:
            real, held_out = self.judge.real.labels, self.judge.real.test_labels
            made |= {"teacher_real": len(real), "student_real": len(real)}
            made |= {"real": len(real), "held_out": len(held_out)}
        elif self.reference is not None:
            found = len(self.reference.samples)
            made |= {"teacher_real": found, "student_real": found, "real": found}
        return made

    def labels(self, source: Source) -> Tensor | None:
        """Of all images of a source, (N,) int64; None for those without."""
        if source in ("real", "held_out"):
            return self._real_labels(source)
        if self.classes is None:
            return None
        if source.endswith("_real"):
            own = self._real_labels("real") if self.reference is None else self.reference.labels
            if own is not None:
                return own
        return torch.arange(self.sources[source]) % self.classes

    def _real_labels(self, source: Source) -> Tensor | None:
        """Classes of real images; a caption of its own is none."""
        if self.judge is not None:
            real = self.judge.real
            return real.labels if source == "real" else real.test_labels
        assert self.reference is not None
        return self.reference.labels if self.teacher.prompts is None else None

    def noise(self, source: Source, numbers: Tensor) -> Tensor:
        """Of these images of a network, (n, C, H, W)."""
        stream = seeds.FLOOR if source == "floor" else seeds.EVALUATION
        first = self.config.evaluate.count if source.endswith("_real") else 0
        return seeds.noise(self.config.seed, first + numbers, self.teacher.shape, stream)

    def images(self, source: Source, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W), as the networks make them; real ones as they look.

        Raises:
            UserError: If one is not finite, or cannot be read.
        """
        if source == "real" and self.reference is not None:
            return self.reference.images(numbers)
        if source in ("real", "held_out"):
            assert self.judge is not None
            real = self.judge.real
            return (real.images if source == "real" else real.test_images)[numbers]
        by = self.by_student if source.startswith("student") else self.by_teacher
        labels = self.labels(source)
        images = by(self.noise(source, numbers), None if labels is None else labels[numbers])
        _check_finite(images, source, int(numbers[0]))
        return images

    def shown(self, source: Source, images: Tensor) -> Tensor:
        """The same to look at, (n, 1 or 3, H, W), where the networks are."""
        images = images.to(self.device)
        return images if source in ("real", "held_out") else self.teacher.decode(images)

    def read(self, task: Task) -> Batch:
        """Make the images of a task and read them; raises as `images`."""
        images = self.images(task.source, torch.arange(task.first, task.stop))
        pixels, empty = self._pixels(images), torch.empty(0)
        features, predicted, confidence = pixels, torch.empty(0, dtype=torch.int16), empty
        if self.judge is not None:
            features, logits = read(self.judge.classifier, images)
            sure = logits.softmax(1).max(1)
            predicted, confidence = sure.indices.to(torch.int16), sure.values
        scores = empty
        if self.net is not None or self.clip is not None:
            shown = self.shown(task.source, images)
            if self.net is not None:
                features = self.net(shown).cpu()
            if self.clip is not None and task.source in ("student", "teacher", "floor"):
                labels = self.labels(task.source)
                assert labels is not None and self.teacher.prompts is not None
                chosen = labels[task.first : task.stop].tolist()
                scores = self.clip(shown, [self.teacher.prompts[each] for each in chosen]).cpu()
        rows = Rows(features, pixels, predicted, confidence, scores)
        return Batch(task, rows, peak_mib())

    def _pixels(self, images: Tensor) -> Tensor:
        if self.whole_pixels:
            return images.flatten(1)
        if self.teacher.latents is not None:
            return images.new_empty(len(images), 0)
        size = [min(side, 32) for side in images.shape[2:]]
        return functional.interpolate(images, size, mode="area").flatten(1)


def tasks(maker: Maker) -> list[Task]:
    """All batches of an evaluation."""
    size = maker.config.evaluate.batch_size
    return [
        Task(source, first, min(first + size, count))
        for source, count in maker.sources.items()
        for first in range(0, count, size)
    ]


Stream = Callable[[Maker, Sequence[Task]], Iterator[Batch]]
"""Who reads the images of all tasks, in any order."""


def in_process(maker: Maker, tasks: Sequence[Task]) -> Iterator[Batch]:
    """Read them here, one after another."""
    return map(maker.read, tasks)


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_finite(images: Tensor, label: str, first: int) -> None:
    if not images.isfinite().all():
        raise UserError(
            f"{label}: images {first} and following are not finite; train it again, "
            "with a lower learning rate"
        )
