"""The law of a mixture of Gaussians in the plane, and how far points are from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pipeline.models.condition import ClassLabels
from pipeline.models.families.gaussian import GaussianMixture

COUNT, OUTSIDE, DIRECTIONS = 100_000, 4.0, 32
COLUMNS = {
    "mean": "mean",
    "covariance": "covariance",
    "mass": "worst mass",
    "width": "variance in modes",
    "outside": "outside",
    "wasserstein": "sliced Wasserstein",
    "ode": "to the ODE of 18 steps",
    "cpu_seconds": "CPU seconds",
}
BARS = {"mean": 0.02, "covariance": 0.02, "mass": 0.1}
"""At most; mean and covariance relative to the exact ones, and the worst mode's mass to its own."""


@dataclass(frozen=True, eq=False)
class Law:
    """A mixture of Gaussians in the plane, in closed form.

    Args:
        means, deviations: Of the modes, (K, 2) each.
        masses: Of the modes, (K,), of sum 1.
    """

    means: Tensor
    deviations: Tensor
    masses: Tensor

    @property
    def numbers(self) -> list[list[float]]:
        """All that it is made of."""
        return [each.flatten().tolist() for each in (self.means, self.deviations, self.masses)]

    def moved(self, right: float) -> Law:
        """The same with all modes further right."""
        return replace(self, means=self.means + torch.tensor([right, 0.0]))

    def narrowed(self, factor: float) -> Law:
        """The same with other deviations."""
        return replace(self, deviations=factor * self.deviations)

    def weighed(self, masses: tuple[float, ...]) -> Law:
        """The same with other masses."""
        return replace(self, masses=torch.tensor(masses))

    def tilted(self, gradient: Tensor, strength: float) -> Law:
        r"""p(x) exp(strength gradient . x), normalised: again such a mixture.

        A mode's mean moves by strength C gradient, and its mass grows by the exponential of
        strength gradient . mean + strength^2 gradient^T C gradient / 2.
        """
        pull = strength * self.deviations**2 * gradient
        exponent = (strength * gradient * self.means + 0.5 * strength * gradient * pull).sum(1)
        masses = (self.masses.log() + exponent).softmax(0)
        return replace(self, means=self.means + pull, masses=masses)

    def teacher(self) -> GaussianMixture:
        """Its exact scores; the masses are fifths, for the teacher's components weigh alike."""
        counts = (5 * self.masses).round().long()
        means, variances = (
            each.repeat_interleave(counts, 0) for each in (self.means, self.deviations**2)
        )
        return GaussianMixture(means, variances, None, (2, 1, 1)).with_conditioner(
            ClassLabels(None)
        )

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Points, (count, 2, 1, 1)."""
        mode = torch.multinomial(self.masses, count, replacement=True, generator=rng)
        points = torch.randn(count, 2, generator=rng)
        return (self.means[mode] + self.deviations[mode] * points)[..., None, None]

    @cached_property
    def mean(self) -> Tensor:
        """(2,)."""
        return self.masses @ self.means

    @cached_property
    def covariance(self) -> Tensor:
        """(2, 2)."""
        apart = self.means - self.mean
        inside = (self.masses @ self.deviations**2).diag()
        return apart.T @ (self.masses[:, None] * apart) + inside

    @cached_property
    def drawn(self) -> Tensor:
        """Points of its own, (COUNT, 2, 1, 1)."""
        return self.draw(COUNT, torch.Generator().manual_seed(0))

    def statistics(self, points: Tensor | None = None) -> Tensor:
        """Mean, masses of the modes, and variance inside each over its own, (2 + 2 K,).

        Args:
            points: (N, 2, 1, 1), whose modes are told apart by this law's posterior; None: the
                law's own, exactly, with variances over those of `LAW`.
        """
        if points is None:
            widths = (self.deviations / LAW.deviations).square().mean(1)
            return torch.cat([self.mean, self.masses, widths])
        flat = points.flatten(1)
        evidence = self.masses.log() - self.deviations.log().sum(1) - 0.5 * self._apart(flat)
        posterior = evidence.softmax(1)
        share = posterior / posterior.sum(0)
        scaled = (flat[:, None] - share.T @ flat) / self.deviations
        widths = (share[..., None] * scaled.square()).sum(0).mean(1)
        return torch.cat([flat.mean(0), posterior.mean(0), widths])

    def figures(self, points: Tensor) -> dict[str, float]:
        """How far COUNT points (COUNT, 2, 1, 1) are from the law.

        - mean: distance of the means over the root of the covariance's trace;
        - covariance: Frobenius norm of the error over that of the exact one;
        - mass: largest relative error of a mode's mass, the mean of its posterior probability;
        - width: variance inside a mode over its own, the mean over the modes;
        - outside: share of points further than 4 deviations from each mode;
        - wasserstein: `distance` to points of its own.
        """
        flat = points.flatten(1)
        mean, masses, widths = self.statistics(points).split(
            (2, len(self.masses), len(self.masses))
        )
        wrong = flat.T.cov() - self.covariance
        found = {
            "mean": (mean - self.mean).norm() / self.covariance.trace().sqrt(),
            "covariance": wrong.norm() / self.covariance.norm(),
            "mass": (masses / self.masses - 1).abs().max(),
            "width": widths.mean(),
            "outside": (self._apart(flat).min(1).values > OUTSIDE**2).float().mean(),
        }
        values = {name: float(each) for name, each in found.items()}
        return values | {"wasserstein": distance(points, self.drawn)}

    def nearest_tilt(self, gradient: Tensor, points: Tensor) -> float:
        """The strength at which the tilted law's mean is that of points along the gradient."""
        wanted, low, high = float(points.flatten(1).mean(0) @ gradient), -10.0, 10.0
        for _ in range(40):
            middle = (low + high) / 2
            below = float(self.tilted(gradient, middle).mean @ gradient) < wanted
            low, high = (middle, high) if below else (low, middle)
        return (low + high) / 2

    def _apart(self, flat: Tensor) -> Tensor:
        """Squared distances of points (N, 2) to each mode, in its deviations, (N, K)."""
        return ((flat[:, None] - self.means) / self.deviations).square().sum(2)


def distance(points: Tensor, others: Tensor) -> float:
    """Sliced Wasserstein distance of two sets of as many points, (N, 2, 1, 1).

    Root of the mean square difference of their quantiles along directions of the half circle.

    Source: Bonneel et al., 2015, "Sliced and Radon Wasserstein Barycenters of Measures", Section 3.
    """
    angles = torch.arange(DIRECTIONS) * torch.pi / DIRECTIONS
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    ours, theirs = ((directions @ x.flatten(1).T).sort(1).values for x in (points, others))
    return float((ours - theirs).square().mean().sqrt())


LAW = Law(
    torch.tensor([[-0.8, -0.3], [-0.2, 0.8], [0.7, 0.4], [0.4, -0.8]]),
    torch.tensor([[0.14, 0.18], [0.2, 0.12], [0.14, 0.14], [0.18, 0.14]]),
    torch.tensor([0.4, 0.2, 0.2, 0.2]),
)
"""Four modes at unequal distances, the first of double mass."""
