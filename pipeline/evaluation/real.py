"""Real images that an evaluation compares with, and those that a small teacher learnt from."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from pipeline.config import Config
from pipeline.data.images import RealImages, load_images
from pipeline.evaluation.classifier import Classifier, train_classifier
from pipeline.models.denoiser import Denoiser
from pipeline.utils.errors import UserError

Part = Literal["real", "held_out"]
"""The images that student and teacher are compared with, and those no network has learnt from."""


class Real(Protocol):
    """Real images, by their numbers.

    Attributes:
        counts: The parts that there are -> their number of images.
        kept: How many features of a part are kept as they are; None: all.
        fingerprint: SHA-256 of the images as they are compared, and of what they show.
        conditions: Which images student and teacher make to be compared with them, in words; None
            where these are the classes of the real ones.
    """

    @property
    def counts(self) -> dict[Part, int]: ...
    @property
    def kept(self) -> int | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def conditions(self) -> str | None: ...

    def labels(self, part: Part) -> Tensor | None:
        """What they show, (N,) int64, as the teacher counts it; None where it knows none of it."""

    def images(self, part: Part, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W) float32 in [-1, 1].

        Raises:
            UserError: If one cannot be read.
        """


@dataclass(frozen=True)
class Learnt:
    """Images that a small teacher learnt from, and those that were kept out of its training."""

    found: RealImages
    kept: ClassVar[None] = None
    conditions: ClassVar[None] = None

    @property
    def counts(self) -> dict[Part, int]:
        return {"real": len(self.found.labels), "held_out": len(self.found.test_labels)}

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.found.images.numpy().tobytes())
        digest.update(self.found.labels.numpy().tobytes())
        return digest.hexdigest()

    def labels(self, part: Part) -> Tensor:
        """Their classes, (N,) int64."""
        return self.found.labels if part == "real" else self.found.test_labels

    def images(self, part: Part, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W) float32 in [-1, 1]."""
        return (self.found.images if part == "real" else self.found.test_images)[numbers]

    def train_classifier(self) -> Classifier:
        """One that has learnt the same images."""
        return train_classifier(self.found.images, self.found.labels, self.found.classes)


def learnt_set(config: Config) -> str | None:
    """The set that the teacher learnt from; an analytic one has learnt from none."""
    return None if config.teacher.kind == "gaussian" else config.data.name


def open_learnt(config: Config, teacher: Denoiser) -> Learnt | None:
    """The images that the teacher learnt from, if it is known which they are.

    Raises:
        UserError: If they cannot be loaded, or are not of the teacher's kind.
    """
    if (name := learnt_set(config)) is None:
        return None
    found = load_images(name, config.data.size, config.data.folder)
    shape = tuple(found.images.shape[1:])
    if shape != teacher.shape or teacher.classes not in (None, found.classes):
        raise UserError(
            f"data.name: {name} has {shape} images of {found.classes} classes, the "
            f"teacher in {config.teacher.output} makes {teacher.shape} of {teacher.classes}; "
            "name the set and size it learnt from"
        )
    return Learnt(found)
