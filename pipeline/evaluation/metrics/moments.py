"""Means and covariances of features that need not be kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A normal distribution: its mean, (D,), and a root R of its covariance R^T R, (any, D)."""

    mean: Tensor
    root: Tensor


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
