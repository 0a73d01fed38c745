"""Critic lag: the critic does not know what the student makes now."""

from collections.abc import Sequence

import torch

from pipeline.training.detectors.detector import Detector, Line, Probe

LAG, FALLING = 0.25, 0.9
"""Share of its error that a critic need not make, and what it may be of the line's before."""
STILL, GROWING = 1e-4, 1.5
"""Its distance to the teacher beside the teacher's error, and what it must be of that before."""
_LEVELS = 4


class CriticLag(Detector):
    r"""How much of the critic's error on fresh samples a critic that had learnt them need not make.

    What remains of a right prediction, x0 - D(x_t), is not correlated with anything that is known
    at x_t. So a part of it that a x_t + b D + c (D_teacher - D) + d explains, at each of four noise
    levels, is the critic's own. And a critic that stays at the teacher teaches nothing.

    Source: orthogonality of the conditional mean; Bishop, Pattern Recognition and Machine Learning,
    Eq. 1.90.
    """

    needs = ("probe_critic_slack", "probe_critic_gap")

    def measure(self, probe: Probe) -> dict[str, float]:
        if probe.critic is None:
            return {}
        levels = probe.critic.levels.argsort().tensor_split(_LEVELS)
        sums = torch.stack([probe.critic.products[rows].sum(0) for rows in levels])
        known, error, explained = sums[:, :-1, :-1], sums[:, -1, -1], sums[:, :-1, -1:]
        solved = torch.linalg.lstsq(known, explained, driver="gelsd").solution
        apart, along = sums[:, 2, 2], sums[:, 2, -1]
        return {
            "probe_critic": float(error.sum() / len(probe.critic.products)),
            "probe_critic_slack": float((solved * explained).sum() / error.sum()),
            "probe_critic_gap": float(apart.sum() / (error - 2 * along + apart).sum()),
        }

    def ails(self, lines: Sequence[Line]) -> bool:
        if len(lines) < 2 or not self.in_third(lines[-1]):
            return False
        (slack, before), (gap, earlier) = (
            [line[name] for line in (lines[-1], lines[-2])] for name in self.needs
        )
        return (slack > LAG and slack > FALLING * before) or (
            gap < STILL and gap <= GROWING * earlier
        )

    def text(self, lines: Sequence[Line]) -> str:
        if lines[-1]["probe_critic_slack"] > LAG:
            return (
                "the critic does not keep up with the student (it need not make "
                f"{lines[-1]['probe_critic_slack']:.0%} of its error on fresh samples): raise "
                "distill.student.every or distill.burn_in_steps, or lower distill.student.lr"
            )
        return (
            "the critic still says what the teacher says, so that the student learns nothing of "
            f"the matching loss: raise distill.critic.lr ({self.distill.critic.lr:g})"
        )
