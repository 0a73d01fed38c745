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


class Normal(NamedTuple):
    """A normal distribution: its mean, (D,), and its covariance, (D, D)."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Moments:
    """First and second moments of any number of features, which need not be kept.

    Few features in many dimensions take no D x D matrix, and their covariance no rounding.

    Attributes:
        count: Number of rows.
        mean: (D,) float64.
        root: R, (less than count and at most 2 D, D) float64: R^T R is the sum of the products of
            their deviations from the mean.

    Source: Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance", Eq. 2.1.
    """

    count: float
    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of these features, (N, D), N at least 1."""
        features = features.double()
        mean = features.mean(0)
        away, number = features - mean, torch.arange(1, len(features)).double()[:, None]
        before = away[:-1].cumsum(0) / number
        rows = (number / (number + 1)).sqrt() * (away[1:] - before)
        return cls(len(features), mean, _short(rows))

    @classmethod
    def together(
        cls, parts: Sequence["Moments"], weights: Sequence[float] | None = None
    ) -> "Moments":
        """Of all parts at once, each taken so many times."""
        weights = [1.0] * len(parts) if weights is None else weights
        count, mean, rows = 0.0, torch.zeros_like(parts[0].mean), list[Tensor]()
        for weight, part in zip(weights, parts, strict=True):
            if weight:
                more, away = weight * part.count, part.mean - mean
                if count:
                    rows.append((count * more / (count + more)) ** 0.5 * away[None])
                rows.append(weight**0.5 * part.root)
                count, mean = count + more, mean + more / (count + more) * away
        return cls(count, mean, _short(torch.cat(rows)))

    @property
    def scatter(self) -> Tensor:
        """Sum of the products of the deviations from the mean, (D, D)."""
        return self.root.T @ self.root

    def gaussian(self) -> Gaussian:
        """Fitted to them, with the unbiased covariance and a root of at most D rows."""
        return Gaussian(self.mean, _short(self.root, 1) / (self.count - 1) ** 0.5)


class Sums(NamedTuple):
    """Moments of parts, ready to be added up many times where there are more rows than features.

    Attributes:
        counts: Rows of each part, (P,) float64.
        means: (P, D).
        scatters: (P, D, D).
    """

    counts: Tensor
    means: Tensor
    scatters: Tensor

    @classmethod
    def of(cls, parts: Sequence[Moments], axes: Tensor | None = None) -> "Sums":
        """Of these parts, in the coordinates that orthonormal axes, (D, D) by columns, give."""
        counts = torch.tensor([part.count for part in parts], dtype=torch.float64)
        if axes is not None:
            parts = [Moments(part.count, part.mean @ axes, part.root @ axes) for part in parts]
        means = torch.stack([part.mean for part in parts])
        return cls(counts, means, torch.stack([part.scatter for part in parts]))

    def together(self, weights: Tensor) -> Normal:
        """Fitted to all parts at once, each taken so many times, (P,) float64."""
        shares = weights * self.counts
        mean = shares @ self.means / shares.sum()
        away = self.means - mean
        within = (weights @ self.scatters.flatten(1)).view_as(self.scatters[0])
        return Normal(mean, (within + away.T @ (shares[:, None] * away)) / (shares.sum() - 1))


def _short(root: Tensor, most: int = 2) -> Tensor:
    """A root of the same matrix, of at most so many times D rows."""
    return torch.linalg.qr(root, mode="r").R if len(root) > most * root.shape[1] else root
