"""Gradients that grow: a network diverges."""

from collections.abc import Iterator, Sequence

from pipeline.training.detectors.detector import Detector, Line

MOST = 20.0
"""Times the least of the phase so far."""
_NETWORKS = ("student", "critic")


class Gradients(Detector):
    """Norms of the gradients above what is clipped, beside what they were in this phase."""

    needs = ()

    def ails(self, lines: Sequence[Line]) -> bool:
        return any(self._grown(lines))

    def text(self, lines: Sequence[Line]) -> str:
        network, times = next(self._grown(lines))
        rate = "distill.critic.lr" if network == "critic" else self.rate(lines[-1])
        return (
            f"the {network}'s gradients are {times:.0f} times what they were: lower {rate} or "
            f"distill.clip ({self.distill.clip:g})"
        )

    def _grown(self, lines: Sequence[Line]) -> Iterator[tuple[str, float]]:
        """Networks whose gradients grew, and how many times."""
        phase = self.of_phase(lines)
        for network in _NETWORKS:
            norms = [norm for line in phase if (norm := line.get(f"{network}_norm"))]
            now = phase[-1].get(f"{network}_norm", 0.0)
            if now > self.distill.clip and now > MOST * (least := min(norms)):
                yield network, now / least
