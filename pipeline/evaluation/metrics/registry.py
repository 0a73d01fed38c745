"""The metrics of every evaluation: a new one is a file in this folder and a line here."""

from pipeline.evaluation.metrics.frechet import FRECHET
from pipeline.evaluation.metrics.kernel import KERNEL
from pipeline.evaluation.metrics.metric import Metric
from pipeline.evaluation.metrics.neighbours import NEIGHBOURS

METRICS: dict[str, Metric] = {
    "frechet": FRECHET,
    "kernel": KERNEL,
    "neighbours": NEIGHBOURS,
}
"""Name -> metric, in the order of their figures in `evaluation.json`."""
