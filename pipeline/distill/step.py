"""The optimiser step: lanes in, one update of the student and one of the critic out."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.distill.dmd import DMD, Lane, Loss
from pipeline.models.sampling import Denoise


@dataclass(frozen=True)
class Trained:
    """A network in training.

    Attributes:
        network: As Accelerate prepared it: wrapped where several workers share its gradients.
        optimizer: Its optimiser.
        rate: Learning rate at a step, counted from 0.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]


@dataclass(frozen=True)
class Step:
    """One step of the optimisation, the same on any number of workers.

    The global batch is `lanes` micro-batches. A worker runs its share of them; gradients are
    summed over its lanes, synchronised once, and divided by the number of all lanes.

    Args:
        method: Losses and turns.
        student, critic: The networks in training.
        teacher: Frozen, under its guidance.
        ema: Moving average of the student.
        accelerator: Device, precision and gradient synchronisation.
        lanes: Number of lanes in the global batch.
        clip: Largest norm of a gradient.
    """

    method: DMD
    student: Trained
    critic: Trained
    teacher: Denoise
    ema: AveragedModel
    accelerator: Accelerator
    lanes: int
    clip: float

    def __call__(self, step: int, mine: list[Lane]) -> dict[str, Tensor]:
        """Run step `step`, counted from 0, on this worker's lanes.

        The student learns first; the critic then learns the samples that the student gave
        before its update. In the student's turn the critic is called bare: its wrapper would
        leave gradients behind.

        Returns:
            Scalars for the log: this worker's share of each, so that the sum over all workers
            is the batch's figure.
        """
        turn = self.method.turn(step)
        bare_student = self.accelerator.unwrap_model(self.student.network)
        bare_critic = self.accelerator.unwrap_model(self.critic.network)
        losses: list[Loss] = []
        samples: list[Tensor] = []
        logged: dict[str, Tensor] = {}
        if turn.critic and not turn.matching:
            samples = [self.method.samples(bare_student, lane) for lane in mine]
        if turn.student:
            student_loss = partial(
                self.method.student_loss, turn, self.student.network, self.teacher, bare_critic
            )
            losses, logged["student_norm"] = self._update(
                self.student, step, [partial(student_loss, lane) for lane in mine]
            )
            samples += [loss.samples for loss in losses if loss.samples is not None]
            self.ema.update_parameters(bare_student)
        if turn.critic:
            critic_loss = partial(self.method.critic_loss, self.critic.network)
            critic_losses, logged["critic_norm"] = self._update(
                self.critic,
                step,
                [partial(critic_loss, x0, lane) for x0, lane in zip(samples, mine, strict=True)],
            )
            losses = losses + critic_losses
        for loss in losses:
            for name, value in loss.parts.items():
                logged[name] = logged.get(name, 0.0) + value / self.lanes
        return logged

    def _update(
        self, trained: Trained, step: int, losses: list[Callable[[], Loss]]
    ) -> tuple[list[Loss], Tensor]:
        """Backward through this worker's lanes, one synchronisation, one optimiser step.

        Returns the lanes' losses, and the norm of the batch's gradient before clipping divided by
        the number of workers.
        """
        share = self.accelerator.num_processes / self.lanes
        done = []
        for left, loss_of in zip(reversed(range(len(losses))), losses, strict=True):
            last = left == 0
            with nullcontext() if last else self.accelerator.no_sync(trained.network):
                loss = loss_of()
                self.accelerator.backward(loss.total * share)
            done.append(loss)
        norm = self.accelerator.clip_grad_norm_(trained.network.parameters(), self.clip)
        for group in trained.optimizer.param_groups:
            group["lr"] = trained.rate(step)
        trained.optimizer.step()
        trained.optimizer.zero_grad()
        return done, norm / self.accelerator.num_processes
