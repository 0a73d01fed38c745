"""From the images of an evaluation to their features, a batch at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.classifier import Classifier, read
from pipeline.evaluation.image_sets import ImageSets, SetName
from pipeline.evaluation.speed import peak_mib
from pipeline.evaluation.statistics import Readout
from pipeline.models.perceptual.features import FeatureNet
from pipeline.models.scores.score import Score


class Task(NamedTuple):
    """A batch of images: those of a set from one number to another."""

    name: SetName
    first: int
    stop: int


class Batch(NamedTuple):
    """What was read of a task's images, and the most memory its process has held, in MiB."""

    task: Task
    readout: Readout
    peak: int


class ImageReader:
    """Makes images and reads their features.

    Args:
        sets: Where the images come from.
        classifier: Trained on real images that the teacher learnt from, or None without such.
        net: The network whose features are compared; None for the classifier or pixels.
        scores: What scores images by their prompts, by name.
        makers: Setting -> checksum of the networks that make the images; None without weights.
    """

    def __init__(
        self,
        sets: ImageSets,
        *,
        classifier: Classifier | None,
        net: FeatureNet | None,
        scores: Mapping[str, Score],
        makers: Mapping[str, str | None],
    ) -> None:
        self.sets, self.classifier, self.net, self.scores = sets, classifier, net, scores
        self._makers = makers

    @property
    def weights(self) -> dict[str, str | None]:
        """Setting -> checksum of the networks that it names."""
        features = {} if self.net is None else {"evaluate.weights": self.net.checksum}
        scores = {f"evaluate.scores.{name}": each.checksum for name, each in self.scores.items()}
        return {**self._makers, **features, **scores}

    def read(self, task: Task) -> Batch:
        """Make the images of a task and read them; raises as `ImageSets.images`."""
        images = self.sets.images(task.name, torch.arange(task.first, task.stop))
        pixels, empty = self._pixels(images), torch.empty(0)
        features, predicted, confidence = pixels, torch.empty(0, dtype=torch.int16), empty
        if self.classifier is not None:
            features, logits = read(self.classifier, images)
            sure = logits.softmax(1).max(1)
            predicted, confidence = sure.indices.to(torch.int16), sure.values
        scores = others = images.new_empty(len(images), 0)
        if self.net is not None or self.scores:
            decoded = self.sets.decoded(task.name, images)
            if self.net is not None:
                features = of_frames(self.net, decoded).cpu()
            if self.scores and (prompts := self._prompts(task)):
                scores = self._scored(decoded, prompts)
                if task.name == "teacher":
                    others = self._scored(decoded, self._prompts(task, self._strangers))
        readout = Readout(features, pixels, predicted, confidence, scores, others)
        return Batch(task, readout, peak_mib())

    def _scored(self, decoded: Tensor, prompts: list[str]) -> Tensor:
        """A column for each score, (n, S)."""

        def by_all(frames: Tensor) -> Tensor:
            each = _each(prompts, frames)
            return torch.stack([score(frames, each) for score in self.scores.values()], 1)

        return of_frames(by_all, decoded).cpu()

    def _pixels(self, images: Tensor) -> Tensor:
        if self.sets.whole_pixels:
            return images.flatten(1)
        if self.sets.teacher.latents is not None:
            return images.new_empty(len(images), 0)
        size = [min(side, 32) for side in images.shape[2:]]
        return functional.interpolate(images, size, mode="area").flatten(1)

    @cached_property
    def _strangers(self) -> Tensor:
        """The number of each prompt -> that of another one, at random; of one prompt itself."""
        count = len(self.sets.teacher.prompts or ())
        order = torch.randperm(count, generator=generator("other prompts"))
        return order.roll(-1)[order.argsort()]

    def _prompts(self, task: Task, instead: Tensor | None = None) -> list[str]:
        """Of each image of a set that is scored, or of others instead; none of other sets."""
        labels, prompts = self.sets.labels(task.name), self.sets.teacher.prompts
        if task.name not in SCORED or labels is None or prompts is None:
            return []
        own = labels[task.first : task.stop]
        return [prompts[label] for label in (own if instead is None else instead[own]).tolist()]


SCORED: tuple[SetName, ...] = ("student", "teacher", "floor", "real")
"""The sets whose images are scored by their prompts; the real ones where they have captions."""


def of_frames(read: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """What is read of images, (N, ...); of videos the mean over their frames.

    Args:
        read: Of images, (n, C, H, W) -> (n, ...).
        samples: Images, (N, C, H, W), or videos, (N, C, F, H, W).
    """
    if samples.ndim == 4:
        return read(samples)
    frames = samples.transpose(1, 2)
    return read(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)


def _each(prompts: Sequence[str], frames: Tensor) -> list[str]:
    """Of every frame."""
    count = len(frames) // len(prompts)
    return [prompt for prompt in prompts for _ in range(count)]


def tasks(sets: ImageSets, batch_size: int) -> list[Task]:
    """All batches of an evaluation."""
    return [
        Task(name, first, min(first + batch_size, count))
        for name, count in sets.counts.items()
        for first in range(0, count, batch_size)
    ]


Stream = Callable[[ImageReader, Sequence[Task]], Iterator[Batch]]
"""Who reads the images of all tasks, in any order."""


def in_process(reader: ImageReader, tasks: Sequence[Task]) -> Iterator[Batch]:
    """Read them here, one after another."""
    return map(reader.read, tasks)
