"""Input noise: the student gives back what it was given."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cosine_similarity

from pipeline.training.detectors.detector import Detector, Line, Probe

MOST = 0.8
"""Of the way from the teacher's likeness to the noise, to the noise itself."""


class InputNoise(Detector):
    """Cosine of images and the noise in the student's last input, beyond the teacher's.

    0 is as like as the teacher's, whose ODE keeps some of the noise; 1 is the noise itself.
    """

    needs = ("probe_noise",)

    def measure(self, probe: Probe) -> dict[str, float]:
        student, teacher = (_like(each, probe.noise) for each in (probe.student, probe.teacher))
        return {"probe_noise": float((student - teacher) / (1 - teacher))}

    def ails(self, lines: Sequence[Line]) -> bool:
        return lines[-1]["probe_noise"] > MOST

    def text(self, lines: Sequence[Line]) -> str:
        return (
            f"the student's images are its input noise ({lines[-1]['probe_noise']:.0%} of it): the "
            "student does not learn to denoise; see that distill.student.times begins at the "
            "noisiest time of the teacher's scheduler, and that distill.start_from is a student's"
        )


def _like(images: Tensor, noise: Tensor) -> Tensor:
    """Mean cosine of centred images and noise."""
    return cosine_similarity((images - images.mean(0)).flatten(1), noise.flatten(1)).mean()
