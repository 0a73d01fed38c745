"""A metric from outside: how far apart the means of two sets of features are."""

from pipeline.evaluation.metrics.metric import Estimate, Estimates, Metric, TwoSets
from pipeline.evaluation.metrics.registry import METRICS


def mean_gap(sets: TwoSets) -> Estimates:
    gap = sets.other.kept.mean(0) - sets.reference.kept.mean(0)
    return {"mean_gap": Estimate(float(gap.norm()))}


METRICS["mean_gap"] = Metric(mean_gap, needs="features")
