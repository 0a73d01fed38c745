"""The Fréchet distance: how far two sets of images are apart, as Gaussians in their features."""

import torch
from torch import Tensor

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.metrics.metric import Estimate, Metric, TwoSets, check_features
from pipeline.evaluation.metrics.moments import Gaussian, Moments


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


def rough_distance(a: Moments, b: Moments) -> float:
    """`gaussian_distance` of the Gaussians fitted to them, in many dimensions far faster.

    The trace is the sum of the roots of the eigenvalues of L^T B L, with L the Cholesky factor of
    A. A is made positive definite first: where covariances are singular, the distance is right to
    about four digits of their trace, enough for the width of an interval.
    """
    one, two = (side.scatter / (side.count - 1) for side in (a, b))
    spread = one.trace() + two.trace()
    little = (1e-9 * one.diagonal().max()).clamp(min=1e-30)
    factor = torch.linalg.cholesky(one + little * torch.eye(len(one)))
    values = torch.linalg.eigvalsh(factor.T @ two @ factor)
    spread -= 2 * values.clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + spread)


def frechet(sets: TwoSets) -> Estimate:
    """Fréchet distance, and an interval by the bootstrap over the parts of a set.

    The reference stays as it is. A set from the same noise is resampled together with it.

    Source: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", Chapter 13. A bootstrap
    sample has doubles, which adds to the bias; that is taken off.
    """
    reference, other = sets.reference, sets.other
    value = gaussian_distance(reference.gaussian, other.gaussian)
    count, rng, values = len(other.parts), generator("bootstrap"), []
    for _ in range(bootstrap.RESAMPLES):
        drawn = torch.randint(count, (count,), generator=rng)
        weights = drawn.bincount(minlength=count).tolist()
        fixed = reference.moments
        if sets.same_noise:
            fixed = Moments.together(reference.parts, weights)
        values.append(rough_distance(fixed, Moments.together(other.parts, weights)))
    return bootstrap.interval(value, torch.tensor(values, dtype=torch.float64))


FRECHET = Metric(lambda sets: {"fid": frechet(sets)}, needs="moments")


def _fit(features: Tensor) -> Gaussian:
    features = features.double()
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R
    return Gaussian(mean, root / (len(features) - 1) ** 0.5)
