"""Diversity: a condition gives the same image from every seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.training.detectors.detector import Detector, Line, Probe, best

DROP, LEAST = 0.3, 0.2
"""Of the run's own best, and of the teacher's where contrast is: below it seeds are all alike."""
_SHARP = 1.0


class Diversity(Detector):
    """Mean squared distance of images of one condition and two noises, beside the teacher's.

    A student that begins as the teacher's mean is all alike too, but blurred: it is left alone
    until it has the teacher's contrast.
    """

    needs = ("probe_diversity", "probe_contrast")

    def measure(self, probe: Probe) -> dict[str, float]:
        student, teacher = (_apart(each, probe.groups) for each in (probe.student, probe.teacher))
        return {"probe_diversity": float(student / teacher)}

    def ails(self, lines: Sequence[Line]) -> bool:
        diversity, contrast = (lines[-1][name] for name in self.needs)
        fell = diversity < DROP * best(lines, "probe_diversity")
        return fell or (diversity < LEAST and contrast > _SHARP)

    def text(self, lines: Sequence[Line]) -> str:
        return (
            "different seeds give nearly the same image of one condition "
            f"({lines[-1]['probe_diversity']:.0%} of the teacher's diversity, "
            f"{best(lines, 'probe_diversity'):.0%} at best): lower {self.rate(lines[-1])} or a "
            "high pairs.guidance, or raise distill.student.every or distill.regression.weight"
        )


def _apart(images: Tensor, groups: Tensor) -> Tensor:
    """Mean squared distance of two images of a group."""
    flat = images.flatten(1).double()
    pairs = (groups[:, None] == groups[None]).fill_diagonal_(False)
    return torch.cdist(flat, flat)[pairs].square().mean()
