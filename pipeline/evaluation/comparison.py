"""The images of an evaluation: made batch by batch, and read into features at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config import Config
from pipeline.diffusion import seeds
from pipeline.evaluation.classifier import Classifier, read
from pipeline.evaluation.real import Learnt, Part, Real, learnt_set, open_learnt
from pipeline.evaluation.reference import open_reference
from pipeline.evaluation.speed import Generate, peak_mib
from pipeline.evaluation.statistics import Rows
from pipeline.models.denoiser import Denoiser
from pipeline.models.perceptual.clip import Clip, load_clip
from pipeline.models.perceptual.features import FeatureNet, load_features
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.utils.errors import UserError
from pipeline.utils.progress import progress

PIXELS = 3 * 32 * 32
"""Numbers of the largest images that are compared pixel by pixel: beyond, a covariance of pixels
takes much memory and time and says little."""

Source = Literal["teacher", "student", "floor", "teacher_real", "student_real"] | Part
"""Who makes images: student and teacher from the same noise, the teacher from other noise, both
with the labels of the real images; the real images, and those no network has learnt from."""


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
        real, classifier: Real images that are opened and a classifier that is trained already.

    Attributes:
        device: Where the networks are.
        real: What the networks' images are compared with, or None.
        classifier: Trained on real images that the teacher learnt from, or None without such.
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
        real: Real | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        self.config, self.student, self.teacher = config, student, teacher
        self.device = device()
        self.classes = teacher.classes
        self.net: FeatureNet | None = load_features(config.evaluate)
        self.clip: Clip | None = load_clip(config.evaluate, teacher.prompts)
        if self.net is None and learnt_set(config) is None:
            self._check_values()
        self.real = real or open_learnt(config, teacher) or open_reference(config, teacher)
        if isinstance(self.real, Learnt):
            classifier = classifier or self.real.train_classifier()
        self.classifier = classifier
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
        if self.real is not None:
            found = self.real.counts
            made |= {"teacher_real": found["real"], "student_real": found["real"]}
            made.update(found.items())
        return made

    def labels(self, source: Source) -> Tensor | None:
        """Of all images of a source, (N,) int64; None for those without."""
        part: Part = "held_out" if source == "held_out" else "real"
        own = None if self.real is None else self.real.labels(part)
        if source == part:
            return own
        if self.classes is None:
            return None
        if own is not None and source.endswith("_real"):
            return own
        return torch.arange(self.sources[source]) % self.classes

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
        if source == "real" or source == "held_out":
            assert self.real is not None
            return self.real.images(source, numbers)
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
        if self.classifier is not None:
            features, logits = read(self.classifier, images)
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
