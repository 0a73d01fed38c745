"""Static frames: videos that stand still."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.training.detectors.detector import Detector, Line, Probe, best

LEAST = 0.3
"""Of the teacher's motion, and of the run's own best: below it a video stands still."""
_SHARP = 0.7


class StaticFrames(Detector):
    """Mean squared change from frame to frame, as a part of the variance, beside the teacher's.

    A student that begins as the teacher's mean stands still too: it is left alone until it has
    moved, or has contrast.
    """

    needs = ("probe_motion", "probe_contrast")

    def measure(self, probe: Probe) -> dict[str, float]:
        if probe.student.ndim < 5 or probe.student.shape[2] < 2:
            return {}
        return {"probe_motion": float(_motion(probe.student) / _motion(probe.teacher))}

    def ails(self, lines: Sequence[Line]) -> bool:
        motion, contrast = (lines[-1][name] for name in self.needs)
        return motion < LEAST and (
            contrast > _SHARP or motion < LEAST * best(lines, "probe_motion")
        )

    def text(self, lines: Sequence[Line]) -> str:
        return (
            f"the student's videos stand still ({lines[-1]['probe_motion']:.0%} of the teacher's "
            f"motion): lower {self.rate(lines[-1])}, or raise distill.student.every; stills among "
            "the pairs or real videos teach the same"
        )


def _motion(videos: Tensor) -> Tensor:
    """Of videos (N, C, F, H, W)."""
    change = (videos[:, :, 1:] - videos[:, :, :-1]).square().mean()
    return change / (videos - videos.mean((2, 3, 4), keepdim=True)).square().mean()
