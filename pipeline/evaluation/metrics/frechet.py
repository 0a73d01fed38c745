"""The Fréchet distance: how far two sets of images are apart, as Gaussians in their features."""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.metrics.metric import Estimate, Metric, TwoSets, check_features
from pipeline.evaluation.metrics.moments import Gaussian, Moments, Normal, Sums


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
    check_features(a, b, 2)
    return gaussian_distance(Moments.of(a).gaussian(), Moments.of(b).gaussian())


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    r"""Squared Fréchet distance of two Gaussians.

    |mean_a - mean_b|^2 + Tr(A + B - 2 (AB)^(1/2)), with A and B the covariances. The last trace is
    the sum of singular values of R_a R_b^T.

    Source: Heusel et al., 2017, arXiv 1706.08500, Eq. 6.
    """
    cross = torch.linalg.matrix_norm(a.root @ b.root.T, "nuc")
    spread = a.root.square().sum() + b.root.square().sum() - 2 * cross
    return float((a.mean - b.mean).square().sum() + spread)


def rough_distance(a: Normal, b: Normal) -> float:
    """`gaussian_distance` of these, in many dimensions far faster.

    The trace is the sum of the roots of the eigenvalues of L^T B L, with L the Cholesky factor of
    A. A is made positive definite first: where covariances are singular, the distance is right to
    about four digits of their trace, enough for the width of an interval.
    """
    little = (1e-9 * a.covariance.diagonal().max()).clamp(min=1e-30)
    factor = torch.linalg.cholesky(a.covariance + little * torch.eye(len(a.mean)))
    spread = a.covariance.trace() + b.covariance.trace()
    spread -= 2 * _sum_of_roots(factor.T @ b.covariance @ factor)
    return float((a.mean - b.mean).square().sum() + spread)


def frechet(sets: TwoSets) -> Estimate:
    """Fréchet distance, and an interval by the bootstrap over the parts of a set.

    The reference stays as it is. A set from the same noise is resampled together with it.

    Source: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", Chapter 13. A bootstrap
    sample has doubles, which adds to the bias; that is taken off.
    """
    value = gaussian_distance(sets.reference.gaussian, sets.other.gaussian)
    again, rng = resampled(sets), generator("bootstrap")
    count, values = len(sets.other.parts), []
    for _ in range(bootstrap.RESAMPLES):
        drawn = torch.randint(count, (count,), generator=rng)
        values.append(again(drawn.bincount(minlength=count).double()))
    return bootstrap.interval(value, torch.tensor(values, dtype=torch.float64))


def resampled(sets: TwoSets) -> Callable[[Tensor], float]:
    """The distance as a function of how many times each part is taken, (P,) float64.

    With no more images than features it works on roots, whose rows are images: exact, and fast for
    few. With more it adds up covariances, in the principal axes of a reference that stays as it is.
    """
    reference, other = sets.reference, sets.other
    if max(reference.count, other.count) <= len(reference.moments.mean):

        def by_roots(weights: Tensor) -> float:
            taken = weights.tolist()
            fixed = reference.gaussian
            if sets.same_noise:
                fixed = Moments.together(reference.parts, taken).gaussian()
            return gaussian_distance(fixed, Moments.together(other.parts, taken).gaussian())

        return by_roots
    if sets.same_noise:
        both = Sums.of(reference.parts), Sums.of(other.parts)
        return lambda weights: rough_distance(*(side.together(weights) for side in both))
    root = reference.gaussian.root
    variances, axes = torch.linalg.eigh(root.T @ root)
    deviations, mean = variances.clamp(min=0).sqrt(), reference.gaussian.mean @ axes
    sums = Sums.of(other.parts, axes)

    def in_axes(weights: Tensor) -> float:
        normal = sums.together(weights)
        cross = _sum_of_roots(deviations[:, None] * normal.covariance * deviations)
        spread = variances.sum() + normal.covariance.trace() - 2 * cross
        return float((mean - normal.mean).square().sum() + spread)

    return in_axes


def _sum_of_roots(matrix: Tensor) -> Tensor:
    """Of the eigenvalues of a symmetric matrix that has none below zero, up to rounding."""
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().sum()


FRECHET = Metric(lambda sets: {"fid": frechet(sets)}, needs="moments")
