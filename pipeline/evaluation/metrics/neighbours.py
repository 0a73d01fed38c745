"""Nearest neighbours: precision, recall, density and coverage, and which image is nearest."""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.metrics.metric import Estimate, Metric, TwoSets, check_features

_CHUNK = 1000
"""Rows of a matrix of distances held at once."""


class Support(NamedTuple):
    """How two sets lie in one another, sample by sample; the means are the figures.

    Attributes:
        precision: Whether each fake sample lies on the real manifold, (M,).
        recall: Whether each real sample lies on the fake manifold, (N,).
        density: In how many balls of real samples each fake one lies, as a part of k, (M,).
        coverage: Whether the ball of each real sample holds a fake one, (N,).
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def support(real: Tensor, fake: Tensor, k: int = 3, k_density: int = 5) -> Support:
    """Improved precision and recall, density and coverage.

    The manifold of a set is the union of balls around its samples, each reaching to its k-th
    nearest neighbour in the set. Distances are computed in float64, a chunk of rows at a time.

    Args:
        real: Features, (N, D), N more than both k.
        fake: Features, (M, D), M more than k.
        k: Neighbours, for precision and recall.
        k_density: Neighbours, for density and coverage.

    Returns:
        Values of each sample, float64.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source: Kynkäänniemi et al., 2019, arXiv 1904.06991, Eq. 1 and 2; Naeem et al., 2020,
    arXiv 2002.09797, Eq. 3 and 4.
    """
    check_features(real, fake, max(k, k_density) + 1)
    real, fake = real.double(), fake.double()
    near, reach = _radii(real, k, k_density)
    (around_fake,) = _radii(fake, k)
    precision, density, recall, coverage = [], [], [], []
    for rows in fake.split(_CHUNK):
        far = torch.cdist(rows, real)
        precision.append((far <= near).any(1))
        density.append((far <= reach).double().sum(1) / k_density)
    for rows, own in zip(real.split(_CHUNK), reach.split(_CHUNK), strict=True):
        far = torch.cdist(rows, fake)
        recall.append((far <= around_fake).any(1))
        coverage.append(far.amin(1) <= own)
    return Support(*(torch.cat(each).double() for each in (precision, recall, density, coverage)))


def _measure(sets: TwoSets) -> dict[str, Estimate]:
    """The intervals hold the manifolds as they are."""
    found = support(sets.reference.kept, sets.other.kept)
    return {name: bootstrap.mean(values) for name, values in found._asdict().items()}


NEIGHBOURS = Metric(_measure, needs="features", slow=True)


class Nearest(NamedTuple):
    """Of each point: the distance of its nearest neighbour, and which one it is, (N,) both."""

    distance: Tensor
    which: Tensor


def nearest(points: Tensor, centres: Tensor) -> Nearest:
    """The nearest of the centres, (M, D), to each of the points, (N, D); in float64."""
    check_features(points, centres, 1)
    found = [torch.cdist(rows, centres.double()).min(1) for rows in points.double().split(_CHUNK)]
    return Nearest(
        torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
    )


def _radii(centres: Tensor, *neighbours: int) -> list[Tensor]:
    """Distances of each sample to its k-th nearest neighbours; itself is the nearest of k + 1."""
    parts = []
    for rows in centres.split(_CHUNK):
        closest = torch.cdist(rows, centres).topk(max(neighbours) + 1, largest=False).values
        parts.append(closest)
    closest = torch.cat(parts)
    return [closest[:, k] for k in neighbours]
