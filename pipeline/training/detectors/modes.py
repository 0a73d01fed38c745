"""Loss of modes: parts of what the teacher makes are missing."""

from collections.abc import Sequence

from pipeline.evaluation.metrics.neighbours import support
from pipeline.training.detectors.detector import Detector, Line, Probe

LEAST = 0.7
"""Share of the teacher's images near one of the student's, below which modes are lost."""
_SHARP = 0.7


class Modes(Detector):
    """Coverage of the teacher's images by the student's, all conditions together.

    Source: coverage of Naeem et al., 2020, arXiv 2002.09797, Eq. 4, on images themselves.
    """

    needs = ("probe_coverage", "probe_contrast")

    def measure(self, probe: Probe) -> dict[str, float]:
        found = support(probe.teacher.flatten(1), probe.student.flatten(1))
        return {"probe_coverage": float(found.coverage.mean())}

    def ails(self, lines: Sequence[Line]) -> bool:
        coverage, contrast = (lines[-1][name] for name in self.needs)
        return coverage < LEAST and contrast > _SHARP

    def text(self, lines: Sequence[Line]) -> str:
        return (
            f"the student makes nothing near {1 - lines[-1]['probe_coverage']:.0%} of the "
            "teacher's images: raise distill.regression.weight, distill.student.every or "
            f"distill.burn_in_steps, or lower {self.rate(lines[-1])}"
        )
