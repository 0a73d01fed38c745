"""95% intervals by the bootstrap: a figure of many samples drawn again from one set."""

import torch
from torch import Tensor

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.metrics.metric import Estimate

RESAMPLES = 100
_LOW, _HIGH = 0.025, 0.975


def interval(value: float, resampled: Tensor) -> Estimate:
    """The spread of the resampled values about their mean, moved to the figure itself.

    Args:
        value: The figure.
        resampled: The same of each bootstrap sample, (RESAMPLES,) float64.
    """
    spread = resampled - resampled.mean()
    low, high = spread.quantile(torch.tensor([_LOW, _HIGH], dtype=torch.float64)).tolist()
    return Estimate(value, value + low, value + high)


def mean(values: Tensor) -> Estimate:
    """Mean of the values of single images, (N,), and its interval."""
    rng = generator("bootstrap")
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=rng)
    return interval(float(values.double().mean()), values.double()[drawn].mean(1))


def mean_over_groups(values: Tensor, groups: Tensor) -> Estimate:
    """Mean of the values of single images, (N,), whose groups, (N,) int64, are drawn together.

    Images of one prompt are alike, so the prompts are what is drawn; of one group the images.

    Source: Davison and Hinkley, 1997, "Bootstrap Methods and their Application", Section 3.8.
    """
    _, group, counts = groups.unique(return_inverse=True, return_counts=True)
    if len(counts) == 1:
        return mean(values)
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, group, values.double())
    drawn = torch.randint(len(counts), (RESAMPLES, len(counts)), generator=generator("bootstrap"))
    resampled = sums[drawn].sum(1) / counts[drawn].sum(1)
    return interval(float(values.double().mean()), resampled)


def ratio_of_medians(above: Tensor, below: Tensor) -> Estimate:
    """The median of some values, (N,), over that of others, (M,); both are resampled."""
    rng = generator("bootstrap")
    sides = [
        each[torch.randint(len(each), (RESAMPLES, len(each)), generator=rng)].median(1).values
        for each in (above, below)
    ]
    return interval(float(above.median() / below.median()), sides[0] / sides[1])
