"""Real images that an evaluation compares with, and those a small teacher was trained on."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from pipeline.config import DataConfig, TeacherConfig
from pipeline.data.images import RealImages, load_images
from pipeline.evaluation.classifier import Classifier, train_classifier
from pipeline.models.denoiser import Denoiser
from pipeline.utils.errors import UserError

RealPart = Literal["real", "held_out"]
"""The images that student and teacher are compared with, and those no network has learnt from."""


class RealSet(Protocol):
    """Real images, by their numbers.

    Attributes:
        counts: The parts that there are -> their number of images.
        kept: How many features of a part are kept as they are; None: all.
        fingerprint: SHA-256 of the images as they are compared, and of their labels.
        conditions: Which images student and teacher make to be compared with them, in words; None
            where these are the classes of the real ones.
    """

    @property
    def counts(self) -> dict[RealPart, int]: ...
    @property
    def kept(self) -> int | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def conditions(self) -> str | None: ...

    def labels(self, part: RealPart) -> Tensor | None:
        """What they show, (N,) int64, as the teacher counts it; None where it knows none of it."""

    def images(self, part: RealPart, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W) float32 in [-1, 1].

        Raises:
            UserError: If one cannot be read.
        """


@dataclass(frozen=True)
class TrainingImages:
    """The images a small teacher was trained on, and those held out."""

    found: RealImages
    kept: ClassVar[None] = None
    conditions: ClassVar[None] = None

    @property
    def counts(self) -> dict[RealPart, int]:
        return {"real": len(self.found.labels), "held_out": len(self.found.test_labels)}

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.found.images.numpy().tobytes())
        digest.update(self.found.labels.numpy().tobytes())
        return digest.hexdigest()

    def labels(self, part: RealPart) -> Tensor:
        """Their classes, (N,) int64."""
        return self.found.labels if part == "real" else self.found.test_labels

    def images(self, part: RealPart, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W) float32 in [-1, 1]."""
        return (self.found.images if part == "real" else self.found.test_images)[numbers]

    def train_classifier(self) -> Classifier:
        """A classifier trained on the same images."""
        return train_classifier(self.found.images, self.found.labels, self.found.classes)


def training_set(teacher: TeacherConfig, data: DataConfig) -> str | None:
    """Name of the set of classes that the teacher was trained on; None for others and none."""
    return None if teacher.kind == "gaussian" or data.name == "captions" else data.name


def open_training_images(
    config: TeacherConfig, data: DataConfig, teacher: Denoiser
) -> TrainingImages | None:
    """The images that the teacher was trained on, if it is known which they are.

    Args:
        config: Of the teacher.
        data: Name, size and folder of the images.
        teacher: The network, whose images they must be like.

    Raises:
        UserError: If they cannot be loaded, or are not of the teacher's kind.
    """
    if (name := training_set(config, data)) is None:
        return None
    found = load_images(name, data.size, data.folder)
    shape = tuple(found.images.shape[1:])
    if shape != teacher.shape or teacher.classes not in (None, found.classes):
        raise UserError(
            f"data.name: {name} has {shape} images of {found.classes} classes, the "
            f"teacher in {config.output} makes {teacher.shape} of {teacher.classes}; "
            "name the set and size it learnt from"
        )
    return TrainingImages(found)
