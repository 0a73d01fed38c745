"""What is kept of a set of images while its features stream by: no image, and no more for more."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.image_sets import SetName
from pipeline.evaluation.metrics.metric import FeatureSet
from pipeline.evaluation.metrics.moments import Moments

KEPT = 5_000
"""Features kept of a set that is generated: its first ones."""
GROUPS = 20
"""Parts of a set, alike in their labels, whose moments are kept apart."""


class Readout(NamedTuple):
    """What was read of a batch of images.

    Attributes:
        features: (n, D) float32.
        pixels: The images themselves or made smaller, (n, P), or none of them, (n, 0).
        predicted: Their classes by the classifier, (n,) int16, or (0,) without one.
        confidence: Its probability of that class, (n,), or (0,).
        scores: By the image's prompt, a column for each score, (n, S), or (n, 0).
        others: The same by another prompt, (n, S), or (n, 0).
    """

    features: Tensor
    pixels: Tensor
    predicted: Tensor
    confidence: Tensor
    scores: Tensor
    others: Tensor


_KEPT = ("features", "pixels")
"""What is kept of the first images alone."""


class SetStatistics:
    """A set of images by the moments of its features, and by those of its first images.

    Args:
        count: Images of the whole set.
        labels: Their classes, (count,) int64, or None.
        kept: How many features and pixels to keep as they are; None: all.
        whole_pixels: Whether to keep moments of the pixels, for a Fréchet distance in them.

    Attributes:
        features: Those kept, (kept, D) float32, in order.
        pixels: The same of pixels, (kept, P).
        groups: Part of the set that each image is in, (count,) int64 in [0, GROUPS).
        predicted, confidence, scores, others: Of all images, as in `Readout`; empty where there are
            none.
    """

    features: Tensor
    pixels: Tensor
    predicted: Tensor
    confidence: Tensor
    scores: Tensor
    others: Tensor

    def __init__(
        self,
        count: int,
        labels: Tensor | None = None,
        kept: int | None = KEPT,
        whole_pixels: bool = False,
    ) -> None:
        self.count, self.labels = count, labels
        self.groups = _dealt(count, labels)
        self._kept = count if kept is None else min(kept, count)
        self._whole_pixels = whole_pixels
        self._moments: list[Moments | None] = [None] * GROUPS
        self._pixel_moments: Moments | None = None
        self._seen = 0

    def take(self, first: int, readout: Readout) -> None:
        """Add what was read of the images from `first` on; batches may come in any order."""
        if not self._seen:
            for name in Readout._fields:
                value = getattr(readout, name)
                length = self._kept if name in _KEPT else self.count if len(value) else 0
                setattr(self, name, torch.empty(length, *value.shape[1:], dtype=value.dtype))
        self._seen += len(readout.features)
        stop = first + len(readout.features)
        for name in Readout._fields:
            place, value = getattr(self, name), getattr(readout, name)
            if len(value):
                place[first:stop] = value[: max(len(place) - first, 0)]
        groups = self.groups[first:stop]
        for group in groups.unique().tolist():
            part = Moments.of(readout.features[groups == group])
            self._moments[group] = _joined(self._moments[group], part)
        if self._whole_pixels:
            self._pixel_moments = _joined(self._pixel_moments, Moments.of(readout.pixels))

    def feature_set(self, groups: Sequence[int] | None = None) -> FeatureSet:
        """The features of these parts, or of all; once all images were taken.

        Of the features themselves those of the first `KEPT` images are given, in order: so many
        are kept of all sets.
        """
        assert self._seen == self.count, "images are missing"
        chosen = self._moments if groups is None else [self._moments[group] for group in groups]
        features = self.features[:KEPT]
        if groups is not None:
            features = features[torch.isin(self.groups[: len(features)], torch.tensor(groups))]
        return FeatureSet([part for part in chosen if part is not None], features)

    @property
    def pixel_moments(self) -> Moments | None:
        """Of the pixels, where they were asked for."""
        return self._pixel_moments


Statistics = Mapping[SetName, SetStatistics]
"""All sets of an evaluation."""


def _dealt(count: int, labels: Tensor | None) -> Tensor:
    """Parts of nearly equal size, with nearly equal shares of each class, at random."""
    shuffled = torch.rand(count, generator=generator("groups"), dtype=torch.float64)
    order = (shuffled if labels is None else shuffled + labels).argsort()
    groups = torch.empty(count, dtype=torch.int64)
    groups[order] = torch.arange(count) % GROUPS
    return groups


def _joined(one: Moments | None, other: Moments) -> Moments:
    return other if one is None else Moments.together([one, other])
