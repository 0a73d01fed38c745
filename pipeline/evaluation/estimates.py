"""Figures of one set against another, each with an interval.

An interval says how far the figure would move on other images made by the same networks, 95 times
of 100. It says nothing of the bias that a figure has at its number of images: that is what floors
are for.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.metrics import (
    Moments,
    gaussian_distance,
    kernel_distance,
    rough_distance,
    support,
)
from pipeline.evaluation.statistics import Sketch

RESAMPLES = 100
_LOW, _HIGH = 0.025, 0.975
_SUBSETS, _SUBSET_SIZE = 20, 1000


class Estimate(NamedTuple):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


Figures = dict[str, Estimate]


def frechet(
    reference: Sequence[Moments], other: Sequence[Moments], paired: bool = False
) -> Estimate:
    """Fréchet distance, and an interval by the bootstrap over the parts of a set.

    Args:
        reference: Moments of the parts of the reference, which stays as it is.
        other: Those of the other set, which is resampled.
        paired: Both sets come from the same noise, part by part, and are resampled together.

    Source: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", Chapter 13. What the
    bootstrap adds to the bias, as its samples have doubles, is taken off.
    """
    whole = Moments.together(reference)
    value = gaussian_distance(whole.gaussian(), Moments.together(other).gaussian())
    rng, values = generator("bootstrap"), []
    for _ in range(RESAMPLES):
        drawn = torch.randint(len(other), (len(other),), generator=rng)
        weights = drawn.bincount(minlength=len(other)).tolist()
        fixed = Moments.together(reference, weights) if paired else whole
        values.append(rough_distance(fixed, Moments.together(other, weights)))
    return around(value, torch.tensor(values, dtype=torch.float64))


def share(values: Tensor) -> Estimate:
    """Mean of values of single samples, and an interval by the bootstrap over them."""
    rng = generator("bootstrap")
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=rng)
    return around(float(values.double().mean()), values.double()[drawn].mean(1))


def kernel(reference: Tensor, other: Tensor) -> Estimate:
    """Kernel distance of features, (N, D) each, and an interval by the delete-d jackknife.

    Source: Shao and Wu, 1989, "A general theory for jackknife variance estimation", Eq. 2.3.
    """
    count = min(len(reference), len(other))
    size = min(_SUBSET_SIZE, count // 5)
    found = kernel_distance(reference, other, _SUBSETS, size)
    margin = 1.96 * found.deviation * (size / (count - size)) ** 0.5
    return Estimate(found.mean, found.mean - margin, found.mean + margin)


def neighbours(reference: Tensor, other: Tensor) -> Figures:
    """Precision, recall, density and coverage of features, (N, D) each.

    The intervals hold the manifolds as they are.
    """
    found = support(reference, other)
    return {name: share(getattr(found, name)) for name in found._fields}


class Comparison(NamedTuple):
    """Sets of equal size against a reference of that size.

    Attributes:
        n: Images of the reference, and of each set.
        figures: Name of a figure -> name of a set -> its estimate.
    """

    n: int
    figures: dict[str, Figures]


def compare(
    reference: Sketch,
    others: Mapping[str, Sketch],
    groups: Sequence[int] | None = None,
    floor: Sequence[int] | None = None,
    paired: str | None = None,
    by_neighbours: bool = True,
) -> list[Comparison]:
    """All figures of some sets against a reference, those of equal n together.

    Args:
        reference: What the sets are compared with.
        others: The sets, as large as the reference and dealt into parts as it is.
        groups: Parts of all of them to take; None: all.
        floor: Parts of the reference that are compared with it as a set named "floor".
        paired: The set that comes from the same noise as the reference.
        by_neighbours: Whether to look for neighbours too, which takes long for many images.
    """
    sets = {name: (each.moments(groups), each.kept(groups)) for name, each in others.items()}
    if floor is not None:
        sets["floor"] = reference.moments(floor), reference.kept(floor)
    moments, kept = reference.moments(groups), reference.kept(groups)
    whole = Comparison(
        round(sum(part.count for part in moments)),
        {"fid": {name: frechet(moments, ours, name == paired) for name, (ours, _) in sets.items()}},
    )
    found: dict[str, Figures] = {"kid": {}}
    for name, (_, features) in sets.items():
        found["kid"][name] = kernel(kept, features)
        if by_neighbours:
            for figure, estimate in neighbours(kept, features).items():
                found.setdefault(figure, {})[name] = estimate
    if whole.n == len(kept):
        return [Comparison(whole.n, whole.figures | found)]
    return [whole, Comparison(len(kept), found)]


def around(value: float, resampled: Tensor) -> Estimate:
    """The spread of the resampled values about their mean, moved to the figure itself."""
    spread = resampled - resampled.mean()
    low, high = spread.quantile(torch.tensor([_LOW, _HIGH], dtype=torch.float64)).tolist()
    return Estimate(value, value + low, value + high)
