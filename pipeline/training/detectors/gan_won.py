"""GAN won: the discriminator tells all, or the GAN's pull drowns the other losses."""

from collections.abc import Sequence

from pipeline.training.detectors.detector import Detector, Line

WON = 0.98
"""Share that the discriminator gets right, from which on the student learns nothing of it."""
DROWNS = 10.0
"""Times the matching loss's pull, from which on the GAN's is all that counts."""


class GANWon(Detector):
    """The discriminator's accuracy, and its pull on the student, of the log itself."""

    needs = ("gan_accuracy",)
    patience = 3

    def ails(self, lines: Sequence[Line]) -> bool:
        return lines[-1]["gan_accuracy"] > WON or self._pull(lines[-1]) > DROWNS

    def text(self, lines: Sequence[Line]) -> str:
        if (pull := self._pull(lines[-1])) > DROWNS:
            return (
                f"the GAN pulls the student {pull:.0f} times as hard as the matching loss: lower "
                f"distill.gan.student_weight ({self.distill.gan.student_weight:g})"
            )
        return (
            f"the discriminator gets {lines[-1]['gan_accuracy']:.0%} right, so its gradients say "
            "nothing: lower distill.gan.critic_weight or distill.critic.lr, or raise "
            "distill.gan.smoothness"
        )

    def _pull(self, line: Line) -> float:
        """Of the GAN's gradient on the samples, over that of the matching loss; 0 without one."""
        gan, matching = (line.get(f"{name}_gradient", 0.0) for name in ("gan", "matching"))
        matching *= self.distill.matching.weight
        return gan * self.distill.gan.student_weight / matching if matching else 0.0
