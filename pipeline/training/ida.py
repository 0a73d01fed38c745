"""Implicit distribution alignment: the critic's weights follow the student's."""

from torch import Tensor

from pipeline.models.critic import Critic
from pipeline.models.ema import pull
from pipeline.training.build import TrainingRun
from pipeline.training.hooks import Hook


class IDA(Hook):
    """critic <- keep critic + (1 - keep) student, after each update of the student.

    Of the weights that both have: the critic's heads, and its vectors of the student's steps, are
    its own. While the student learns alone, in the first phase, the critic stays as it is.

    Args:
        keep: The share that the critic keeps, in [0, 1].
        training: Of this worker.

    Source: SenseFlow (Ge et al., 2025), arXiv 2506.00523, Algorithm 1; its authors' code keeps 0.97
    or 0.98.
    """

    def __init__(self, keep: float, training: TrainingRun) -> None:
        self._keep, self._step = keep, training.step
        student, critic = (training.state.networks[name] for name in ("student", "critic"))
        own = critic.denoiser if isinstance(critic, Critic) else critic
        self._critic = list[Tensor](own.parameters())
        self._student = list[Tensor](student.parameters())

    def after_student_update(self, step: int) -> None:
        if self._step.method.plan(step - 1).critic:
            pull(self._critic, self._student, 1 - self._keep)
            self._step.critic.renew()
