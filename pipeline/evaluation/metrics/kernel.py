"""The kernel distance (KID): an unbiased distance of two sets, so that few images suffice."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.evaluation.metrics.metric import Estimate, Metric, check_features

_SUBSETS, _SUBSET_SIZE = 20, 1000


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

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source: Bińkowski et al., 2018, arXiv 1801.01401, Section 3.1.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # takes seconds to import

    check_features(real, fake, size)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features
        torch.manual_seed(0)
        metric = KernelInceptionDistance(nn.Identity(), subsets=subsets, subset_size=size)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        mean, deviation = metric.compute()
    return Kernel(float(mean), float(deviation), size)


def kernel(reference: Tensor, other: Tensor) -> Estimate:
    """Kernel distance of features, (N, D) each, and an interval by the delete-d jackknife.

    Source: Shao and Wu, 1989, "A general theory for jackknife variance estimation", Eq. 2.3.
    """
    count = min(len(reference), len(other))
    size = min(_SUBSET_SIZE, count // 5)
    found = kernel_distance(reference, other, _SUBSETS, size)
    margin = 1.96 * found.deviation * (size / (count - size)) ** 0.5
    return Estimate(found.mean, found.mean - margin, found.mean + margin)


KERNEL = Metric(
    lambda sets: {"kid": kernel(sets.reference.kept, sets.other.kept)},
    needs="features",
    packages=("torchmetrics", "torch"),
)
