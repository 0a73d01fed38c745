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


def ratio_of_medians(above: Tensor, below: Tensor) -> Estimate:
    """The median of some values, (N,), over that of others, (M,); both are resampled."""
    rng = generator("bootstrap")
    sides = [
        each[torch.randint(len(each), (RESAMPLES, len(each)), generator=rng)].median(1).values
        for each in (above, below)
    ]
    return interval(float(above.median() / below.median()), sides[0] / sides[1])
