"""Grid pattern: a peak in the spectrum, as of checkerboards and patches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.training.detectors.detector import Detector, Line, Probe

PEAK = 4.0
"""Of one frequency beside the teacher, over that of most others, from which on there is a grid."""
_LOWEST, _FLOOR = 0.25, 1e-3


class GridPattern(Detector):
    """Power of the strongest of the high frequencies beside the teacher's, over their median."""

    needs = ("probe_grid",)

    def measure(self, probe: Probe) -> dict[str, float]:
        student, teacher = _spectrum(probe.student), _spectrum(probe.teacher)
        floor = _FLOOR * teacher.sum()
        ratio = ((student + floor) / (teacher + floor))[_high(*teacher.shape)]
        return {"probe_grid": float(ratio.max() / ratio.median())}

    def ails(self, lines: Sequence[Line]) -> bool:
        return lines[-1]["probe_grid"] > PEAK

    def text(self, lines: Sequence[Line]) -> str:
        return (
            "a regular pattern lies over the student's images (a frequency is "
            f"{lines[-1]['probe_grid']:.0f} times as strong as others beside the teacher's): lower "
            f"{self.rate(lines[-1])} or distill.gan.student_weight, or raise "
            "distill.regression.weight"
        )


def _spectrum(images: Tensor) -> Tensor:
    """Mean power of every frequency, (H, W), without the images' means."""
    centred = images.double() - images.double().mean((-2, -1), keepdim=True)
    return torch.fft.fft2(centred).abs().square().flatten(0, -3).mean(0)


def _high(height: int, width: int) -> Tensor:
    """Which frequencies have a quarter of a cycle a pixel or more, in either direction."""
    y, x = (torch.fft.fftfreq(side).abs() >= _LOWEST for side in (height, width))
    return y[:, None] | x[None]
