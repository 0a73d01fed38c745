"""Saturation: the student's images have too much contrast, or have lost theirs."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.training.detectors.detector import Detector, Line, Probe, best

MOST, LEAST = 1.3, 0.5
"""Contrast beside the teacher's, and beside the run's own best, between which it is left alone."""
BEYOND = 0.02
"""Share of values beyond the teacher's own, from which on images are burnt out."""
_TAIL, _MARGIN = 0.005, 0.1


class Saturation(Detector):
    """RMS about the teacher's mean colour, and values far outside the unguided teacher's range.

    The second sees what the teacher's guidance burns out, which its own images show too.
    """

    needs = ("probe_contrast", "probe_beyond")

    def measure(self, probe: Probe) -> dict[str, float]:
        return {
            "probe_contrast": float(_spread(probe.student, probe) / _spread(probe.teacher, probe)),
            "probe_beyond": float(_beyond(probe.student, probe.unguided)),
        }

    def ails(self, lines: Sequence[Line]) -> bool:
        contrast, beyond = (lines[-1][name] for name in self.needs)
        faded = contrast < LEAST * best(lines, "probe_contrast")
        return contrast > MOST or beyond > BEYOND or faded

    def text(self, lines: Sequence[Line]) -> str:
        contrast, beyond = (lines[-1][name] for name in self.needs)
        figures = f"{contrast:.0%} of the teacher's contrast, {beyond:.1%} of values far beyond its"
        rate = self.rate(lines[-1])
        if contrast > MOST or beyond > BEYOND:
            return (
                f"the student's images burn out ({figures}): lower {rate}; if the "
                "teacher's images in samples/ look the same, lower pairs.guidance"
            )
        return (
            f"the student's images fade ({figures}): lower {rate}, or raise "
            "distill.student.every or distill.regression.weight"
        )


def _spread(images: Tensor, probe: Probe) -> Tensor:
    """RMS about the mean of the unguided teacher's channels."""
    mean = probe.unguided.mean((0, *range(2, images.ndim)), keepdim=True)
    return (images - mean).square().mean().sqrt()


def _beyond(images: Tensor, reference: Tensor) -> Tensor:
    """Share of the values that lie beyond nearly all of a reference's, and a tenth of its range."""
    ordered = reference.flatten().sort().values
    low, high = ordered[int(_TAIL * len(ordered))], ordered[int((1 - _TAIL) * (len(ordered) - 1))]
    margin = _MARGIN * (high - low)
    return ((images > high + margin) | (images < low - margin)).float().mean()
