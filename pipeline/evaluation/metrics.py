"""How far two sets of images are apart, and how much of one the other covers."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

_CHUNK = 1000
"""Rows of a matrix of distances held at once."""


class Gaussian(NamedTuple):
    """A normal distribution: its mean, (D,), and a root R of its covariance R^T R, (any, D)."""

    mean: Tensor
    root: Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features.

    The roots come from a QR decomposition: exact for singular covariances too, where a matrix
    square root is not.

    Args:
        a: Features, (N, D), N at least 2; computed in float64. Flattened pixels give the pixel
            Fréchet distance.
        b: Features, (M, D), M at least 2.

    Returns:
        The distance in squared units of the features, 0 for equal sets up to rounding.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.
    """
    _check(a, b, 2)
    return gaussian_distance(_fit(a), _fit(b))


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    r"""Squared Fréchet distance of two Gaussians.

    |mean_a - mean_b|^2 + Tr(A + B - 2 (AB)^(1/2)), with A and B the covariances. The last trace is
    the sum of singular values of R_a R_b^T.

    Source: Heusel et al., 2017, arXiv 1706.08500, Eq. 6.
    """
    cross = torch.linalg.matrix_norm(a.root @ b.root.T, "nuc")
    spread = a.root.square().sum() + b.root.square().sum() - 2 * cross
    return float((a.mean - b.mean).square().sum() + spread)


@dataclass(frozen=True)
class Moments:
    """First and second moments of any number of features, which need not be kept.

    Attributes:
        count: Number of rows.
        mean: (D,) float64.
        scatter: Sum of the products of their deviations from it, (D, D) float64.

    Source: Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance", Eq. 2.1.
    """

    count: float
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of these features, (N, D), N at least 1."""
        features = features.double()
        mean = features.mean(0)
        deviations = features - mean
        return cls(len(features), mean, deviations.T @ deviations)

    @classmethod
    def together(
        cls, parts: Sequence["Moments"], weights: Sequence[float] | None = None
    ) -> "Moments":
        """Of all parts at once, each taken so many times."""
        weights = [1.0] * len(parts) if weights is None else weights
        taken = [(w * part.count, w, part) for w, part in zip(weights, parts, strict=True) if w]
        count = sum(n for n, _, _ in taken)
        mean = torch.stack([n / count * part.mean for n, _, part in taken]).sum(0)
        scatter = torch.zeros_like(taken[0][2].scatter)
        for n, weight, part in taken:
            scatter.add_(part.scatter, alpha=weight)
            scatter.addr_(part.mean - mean, part.mean - mean, alpha=n)
        return cls(count, mean, scatter)

    def gaussian(self) -> Gaussian:
        """Fitted to them, with the unbiased covariance."""
        values, vectors = torch.linalg.eigh(self.scatter / (self.count - 1))
        return Gaussian(self.mean, values.clamp(min=0).sqrt()[:, None] * vectors.T)


def rough_distance(a: Moments, b: Moments) -> float:
    """`gaussian_distance` of the Gaussians fitted to them, in many dimensions far faster.

    The trace is the sum of the roots of the eigenvalues of L^T B L, with L the Cholesky factor of
    A. What A needs to have one is added to it: where covariances are singular the distance is
    right to about four digits of their trace, enough for the width of an interval.
    """
    one, two = (side.scatter / (side.count - 1) for side in (a, b))
    spread = one.trace() + two.trace()
    little = (1e-9 * one.diagonal().max()).clamp(min=1e-30)
    factor = torch.linalg.cholesky(one + little * torch.eye(len(one)))
    values = torch.linalg.eigvalsh(factor.T @ two @ factor)
    spread -= 2 * values.clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + spread)


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
    _check(real, fake, max(k, k_density) + 1)
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


class Nearest(NamedTuple):
    """Of each point: the distance of its nearest neighbour, and which one it is, (N,) both."""

    distance: Tensor
    which: Tensor


def nearest(points: Tensor, centres: Tensor) -> Nearest:
    """The nearest of the centres, (M, D), to each of the points, (N, D); in float64."""
    _check(points, centres, 1)
    found = [torch.cdist(rows, centres.double()).min(1) for rows in points.double().split(_CHUNK)]
    return Nearest(
        torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
    )


class Kernel(NamedTuple):
    """The unbiased squared MMD: mean and deviation over subsets of so many features."""

    mean: float
    deviation: float
    subset_size: int


def kernel_distance(real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000) -> Kernel:
    """Kernel distance with the kernel (x y / D + 1)^3, by torchmetrics; the same every time.

    Args:
        real: Features, (N, D).
        fake: Features, (M, D).
        subsets: Random subsets of each.
        size: Features in a subset, no more than N and M.

    Source: Bińkowski et al., 2018, arXiv 1801.01401, Section 3.1.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # takes seconds to import

    _check(real, fake, size)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features
        torch.manual_seed(0)
        metric = KernelInceptionDistance(nn.Identity(), subsets=subsets, subset_size=size)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        mean, deviation = metric.compute()
    return Kernel(float(mean), float(deviation), size)


def _fit(features: Tensor) -> Gaussian:
    features = features.double()
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R
    return Gaussian(mean, root / (len(features) - 1) ** 0.5)


def _radii(centres: Tensor, *neighbours: int) -> list[Tensor]:
    """Distances of each sample to its k-th nearest neighbours; itself is the nearest of k + 1."""
    parts = []
    for rows in centres.split(_CHUNK):
        closest = torch.cdist(rows, centres).topk(max(neighbours) + 1, largest=False).values
        parts.append(closest)
    closest = torch.cat(parts)
    return [closest[:, k] for k in neighbours]


def _check(a: Tensor, b: Tensor, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"features must be (N, D) and (M, D) with at least {least} rows, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
