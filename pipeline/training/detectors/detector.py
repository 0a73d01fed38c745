"""A detector: one way in which a run fails, what tells it, and the way out, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.config import DistillConfig

Line = Mapping[str, float]
"""A line of the metrics log."""


@dataclass(frozen=True)
class CriticProbe:
    """What the critic says of the student's images with noise.

    Attributes:
        levels: Of the noise, (N,), from 0 (clean) to 1 (pure noise).
        products: Mean products over the values of each image, (N, 5, 5) float64, weighted as the
            critic's loss, of x_t, the critic's x0, the teacher's x0 less the critic's, 1, and the
            image less the critic's x0.
    """

    levels: Tensor
    products: Tensor


@dataclass(frozen=True)
class Probe:
    """What the student makes of a fixed noise, beside the teacher; all (N, C, *space) on the CPU.

    Attributes:
        student: Its images, in sample space.
        teacher: The teacher's of the same noise and conditions, under the run's guidance.
        unguided: The same without guidance; the teacher's where there is none.
        noise: Of unit variance, in the student's last input.
        groups: Which condition each has, (N,) int64.
        critic: None where it has not learnt yet.
    """

    student: Tensor
    teacher: Tensor
    unguided: Tensor
    noise: Tensor
    groups: Tensor
    critic: CriticProbe | None = None


class Detector:
    """Base of all detectors: figures of a probe, and what the log's lines say of them.

    It keeps nothing, so that a resumed run judges as a whole one does. A subclass has `measure`
    if it needs figures of its own, `ails`, and `text`. One line in `DETECTORS` registers it.

    Args:
        distill: The settings of the run.

    Attributes:
        needs: Figures of a line; lines without one of them are not looked at.
        patience: In so many lines in a row must it ail until it is found.
    """

    needs: ClassVar[tuple[str, ...]]
    patience: ClassVar[int] = 2

    def __init__(self, distill: DistillConfig) -> None:
        self.distill = distill

    def of_phase(self, lines: Sequence[Line]) -> list[Line]:
        """Those of the same phase as the last line."""
        return [line for line in lines if self._phase(line) == self._phase(lines[-1])]

    def rate(self, line: Line) -> str:
        """Setting of the student's learning rate then."""
        return f"distill.{'student' if self._phase(line) else 'regression'}.lr"

    def in_third(self, line: Line) -> bool:
        """Whether student and critic learnt together."""
        return self._phase(line) == 2

    def _phase(self, line: Line) -> int:
        first, second = self.distill.regression_steps, self.distill.burn_in_steps
        return sum(line["step"] > end for end in (first, first + second))

    def measure(self, probe: Probe) -> dict[str, float]:
        """Figures for the log, by names that begin with "probe_"; pure."""
        return {}

    def ails(self, lines: Sequence[Line]) -> bool:
        """Whether the run ails at the last of the lines, all of which have what it needs."""
        raise NotImplementedError

    def text(self, lines: Sequence[Line]) -> str:
        """What is wrong at the last of the lines, and the way out: in plain words, in one line."""
        raise NotImplementedError


def best(lines: Sequence[Line], figure: str) -> float:
    """The largest of a figure so far; of those that say a part of the teacher's, 1 is enough."""
    return max(min(1.0, line[figure]) for line in lines)


@dataclass(frozen=True)
class Finding:
    """A failure that was found.

    Attributes:
        detector: Its name.
        step: At which it was found.
        sound: The last step at which this detector saw nothing, 0 if there is none.
        text: What is wrong, and the way out.
    """

    detector: str
    step: int
    sound: int
    text: str


def find(name: str, detector: Detector, lines: Sequence[Line]) -> Finding | None:
    """What a detector finds at the last of the log's lines; None if the run is sound, or is let be.

    Args:
        name: Of the detector.
        detector: Whose needs the lines may or may not meet.
        lines: All of the run so far, in order.
    """
    if not lines or not lines[-1].keys() >= set(detector.needs):
        return None
    known = [line for line in lines if line.keys() >= set(detector.needs)]
    ailing = 0
    while ailing < len(known) and detector.ails(known[: len(known) - ailing]):
        ailing += 1
    if ailing < detector.patience:
        return None
    sound = int(known[-ailing - 1]["step"]) if ailing < len(known) else 0
    return Finding(name, int(lines[-1]["step"]), sound, detector.text(known))
