"""How far two sets of images are apart, and how much of one the other covers."""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 1000
"""Rows of a matrix of distances held at once."""


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Squared Fréchet distance of the two Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + Tr(A + B - 2 (AB)^(1/2)), with A and B the covariances. The last trace is
    the sum of singular values of R_a R_b^T, where A = R_a^T R_a by a QR decomposition: exact for
    singular covariances too, where a matrix square root is not.

    Args:
        a: Features, (N, D), N at least 2; computed in float64. Flattened pixels give the pixel
            Fréchet distance.
        b: Features, (M, D), M at least 2.

    Returns:
        The distance in squared units of the features, 0 for equal sets up to rounding.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source: Heusel et al., 2017, arXiv 1706.08500, Eq. 6.
    """
    _check(a, b, 2)
    (mean_a, root_a), (mean_b, root_b) = _fit(a), _fit(b)
    cross = torch.linalg.matrix_norm(root_a @ root_b.T, "nuc")
    spread = root_a.square().sum() + root_b.square().sum() - 2 * cross
    return float((mean_a - mean_b).square().sum() + spread)


class PrecisionRecall(NamedTuple):
    """Both in [0, 1].

    Attributes:
        precision: Part of the fake samples that lie on the real manifold.
        recall: Part of the real samples that lie on the fake manifold.
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall.

    The manifold of a set is the union of balls around its samples, each reaching to its k-th
    nearest neighbour in the set. Distances are computed in float64, a chunk of rows at a time.

    Args:
        real: Features, (N, D), N more than k.
        fake: Features, (M, D), M more than k.
        k: Neighbours.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source: Kynkäänniemi et al., 2019, arXiv 1904.06991, Eq. 1 and 2.
    """
    _check(real, fake, k + 1)
    real, fake = real.double(), fake.double()
    return PrecisionRecall(
        precision=_covered(fake, real, _radii(real, k)),
        recall=_covered(real, fake, _radii(fake, k)),
    )


def _fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R of the unbiased covariance R^T R, (at most D, D)."""
    features = features.double()
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R
    return mean, root / (len(features) - 1) ** 0.5


def _radii(centres: Tensor, k: int) -> Tensor:
    """Distance of each sample to its k-th nearest neighbour; itself is the nearest of k + 1."""
    parts = [
        torch.cdist(rows, centres).kthvalue(k + 1, dim=1).values for rows in centres.split(_CHUNK)
    ]
    return torch.cat(parts)


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = [(torch.cdist(rows, centres) <= radii).any(1) for rows in points.split(_CHUNK)]
    return float(torch.cat(inside).double().mean())


def _check(a: Tensor, b: Tensor, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"features must be (N, D) and (M, D) with at least {least} rows, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
