#!/usr/bin/env python3
"""What a resample of the bootstrap of a Fréchet distance costs, beside how it was done before.

    python bench/frechet.py [--features 1280] [--images 40 1000 5000] [--times 3]

Before, every resample of any size added up both sets' covariances, then took a Cholesky
decomposition, two products and the eigenvalues of matrices of features x features. Resamples of
both ways take turns, on one thread; printed are medians in seconds, their ratio, and how far their
distances are apart, relative to that of all images.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.evaluation.metrics.frechet import (  # noqa: E402
    gaussian_distance,
    resampled,
    rough_distance,
)
from pipeline.evaluation.metrics.metric import FeatureSet, TwoSets  # noqa: E402
from pipeline.evaluation.metrics.moments import Moments, Sums  # noqa: E402
from pipeline.evaluation.statistics import GROUPS  # noqa: E402


def main() -> None:
    """Print a row for each number of images, with a fixed reference and with paired sets."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--images", type=int, nargs="+", default=[40, 1000, 5000])
    parser.add_argument("--times", type=int, default=3, help="resamples of either way")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'images':>8}{'noise':>8}{'before':>12}{'now':>12}{'ratio':>8}{'apart':>10}")
    for count in asked.images:
        both = [_drawn(count, asked.features, seed) for seed in (0, 1)]
        for same_noise in (False, True):
            row = _row(TwoSets(both[0], both[1], same_noise), asked.times)
            noise = "same" if same_noise else "other"
            before, now, apart = row
            ratio = before / now
            print(f"{count:>8}{noise:>8}{before:>12.4f}{now:>12.4f}{ratio:>8.1f}{apart:>10.1e}")


def _row(sets: TwoSets, times: int) -> tuple[float, float, float]:
    """Seconds of either way, and the largest difference of their distances."""
    value = gaussian_distance(sets.reference.gaussian, sets.other.gaussian)
    rng = torch.Generator().manual_seed(0)
    ways = [_before(sets), resampled(sets)]
    seconds, apart = [list[float](), list[float]()], 0.0
    for _ in range(times):
        weights = torch.randint(GROUPS, (GROUPS,), generator=rng).bincount(minlength=GROUPS)
        found = []
        for way, spent in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            found.append(way(weights.double()))
            spent.append(time.perf_counter() - start)
        apart = max(apart, abs(found[0] - found[1]) / value)
    return statistics.median(seconds[0]), statistics.median(seconds[1]), apart


def _before(sets: TwoSets) -> Callable[[Tensor], float]:
    reference, other = Sums.of(sets.reference.parts), Sums.of(sets.other.parts)
    ones = torch.ones(GROUPS, dtype=torch.float64)
    fixed = reference.together(ones)

    def distance(weights: Tensor) -> float:
        taken = reference.together(weights) if sets.same_noise else fixed
        return rough_distance(taken, other.together(weights))

    return distance


def _drawn(count: int, size: int, seed: int) -> FeatureSet:
    """Normal features whose variances fall off as those of images do, as 1 / rank."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, size, generator=rng) / torch.arange(1, size + 1).sqrt()
    parts = [Moments.of(rows) for rows in features.tensor_split(GROUPS)]
    return FeatureSet(parts, features)


if __name__ == "__main__":
    main()
