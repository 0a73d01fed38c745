"""What a metric reads of a set of images, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from torch import Tensor

from pipeline.evaluation.metrics.moments import Gaussian, Moments


class Estimate(NamedTuple):
    """A figure and its 95% interval, where it has one.

    The interval says how far the figure would move on other images made by the same networks, 95
    times of 100. It says nothing of the bias that a figure has at its number of images: that is
    what floors are for.
    """

    value: float
    low: float | None = None
    high: float | None = None


Estimates = dict[str, Estimate]
"""By the name of a figure, or of a set of images."""


@dataclass(frozen=True)
class FeatureSet:
    """The features of a set of images.

    Attributes:
        parts: Moments of all of them, in parts that are alike.
        kept: Those of the first images, (N, D) float32.
    """

    parts: Sequence[Moments]
    kept: Tensor

    @property
    def count(self) -> int:
        """Images in the parts."""
        return round(sum(part.count for part in self.parts))

    @cached_property
    def moments(self) -> Moments:
        """Of all parts together."""
        return Moments.together(self.parts)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Fitted to all of them."""
        return self.moments.gaussian()


class TwoSets(NamedTuple):
    """A set of images and the reference it is compared with, of the same size.

    Attributes:
        reference, other: Their features.
        same_noise: Whether both were made from the same noise, image by image and so part by part.
    """

    reference: FeatureSet
    other: FeatureSet
    same_noise: bool = False


@dataclass(frozen=True)
class Metric:
    """One figure of a set of images, or several that are found together.

    Attributes:
        measure: Gives the figures by their names in `evaluation.json`. A metric of a single set
            reads `TwoSets.other` alone.
        needs: What it reads of a set: "moments" of all images, or "features" of those kept.
        packages: What computes it; `evaluation.json` names their versions.
        slow: Whether it takes long for many images. It is then left out against the teacher's
            images where there are real ones.
    """

    measure: Callable[[TwoSets], Estimates]
    needs: Literal["moments", "features"]
    packages: tuple[str, ...] = ("ray-dmd", "torch")
    slow: bool = False


def check_features(a: Tensor, b: Tensor, least: int) -> None:
    """Refuse features that are not finite, (N, D) and (M, D), with at least so many rows.

    Raises:
        ValueError: If they are not.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"features must be (N, D) and (M, D) with at least {least} rows, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
