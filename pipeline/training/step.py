"""The optimiser step: lanes in, one update of the student and one of the critic out."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from pipeline.diffusion.sampler import Denoise
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Loss, Microbatch
from pipeline.training.clock import Clock


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
class Skipped:
    """A gradient that was not finite, so that its network did not take the step.

    Attributes:
        network: Whose: "student" or "critic".
        lane: Number of a lane of this worker with a loss that is not finite; None if there is
            none, which may be on another worker.
        loss: Name of that loss.
        pairs: Ids of the pairs in that lane.
    """

    network: str
    microbatch: int | None = None
    loss: str | None = None
    pairs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class StepResult:
    """What a step gives back.

    Attributes:
        figures: Scalars for the log: this worker's share of each, so that the sum over all
            workers is the batch's figure.
        skipped: The networks that did not take it; the same ones on every worker.
    """

    figures: dict[str, Tensor]
    skipped: list[Skipped]


@dataclass(frozen=True)
class TrainStep:
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
        clock: Counts the student's and the critic's share of the time.
    """

    method: DMD
    student: Trained
    critic: Trained
    teacher: Denoise
    ema: AveragedModel
    accelerator: Accelerator
    lanes: int
    clip: float
    clock: Clock = field(default_factory=Clock)

    def __call__(self, step: int, mine: dict[int, Microbatch]) -> StepResult:
        """Run step `step`, counted from 0, on this worker's lanes, by their numbers.

        The student learns first; the critic then learns the samples that the student gave
        before its update. In the student's turn the critic is called bare: its wrapper would
        leave gradients behind.
        """
        plan = self.method.plan(step)
        bare_student = self.accelerator.unwrap_model(self.student.network)
        bare_critic = self.accelerator.unwrap_model(self.critic.network)
        samples: dict[int, Tensor] = {}
        done = StepResult({}, [])
        if plan.critic and not plan.fresh:
            with self.clock("student"), self.accelerator.autocast():
                samples = {
                    n: self.method.samples(bare_student, microbatch)
                    for n, microbatch in mine.items()
                }
        if plan.student:

            def student_loss(number: int) -> Loss:
                network, microbatch = self.student.network, mine[number]
                return self.method.student_loss(
                    plan, network, self.teacher, bare_critic, microbatch
                )

            with self.clock("student"):
                losses = self._update("student", self.student, step, mine, student_loss, done)
                if not done.skipped:
                    self.ema.update_parameters(bare_student)
            samples |= {n: x.samples for n, x in losses.items() if x.samples is not None}
        if plan.critic:

            def critic_loss(number: int) -> Loss:
                return self.method.critic_loss(self.critic.network, samples[number], mine[number])

            with self.clock("critic"):
                self._update("critic", self.critic, step, mine, critic_loss, done)
        return done

    def _update(
        self,
        name: str,
        trained: Trained,
        step: int,
        lanes: dict[int, Microbatch],
        loss_of: Callable[[int], Loss],
        done: StepResult,
    ) -> dict[int, Loss]:
        """Backward through this worker's lanes, one synchronisation, one optimiser step.

        Returns the lanes' losses, and adds to what is `done` their mean parts and the norm of
        the batch's gradient before clipping divided by the number of workers.
        """
        share = self.accelerator.num_processes / self.lanes
        losses, last = {}, max(lanes)
        for number in lanes:
            with nullcontext() if number == last else self.accelerator.no_sync(trained.network):
                with self.accelerator.autocast():
                    losses[number] = loss_of(number)
                self.accelerator.backward(losses[number].total * (share * lanes[number].weight))
        norm = self.accelerator.clip_grad_norm_(trained.network.parameters(), self.clip)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if norm.isfinite():
            for group in trained.optimizer.param_groups:
                group["lr"] = trained.rate(step)
            trained.optimizer.step()
        else:
            done.skipped.append(_reason(name, lanes, losses))
        trained.optimizer.zero_grad()
        for number, loss in losses.items():
            for part, value in loss.parts.items():
                mean = value * (lanes[number].weight / self.lanes)
                done.figures[part] = done.figures.get(part, 0.0) + mean
        done.figures[f"{name}_norm"] = norm / self.accelerator.num_processes
        return losses


def _reason(network: str, lanes: dict[int, Microbatch], losses: dict[int, Loss]) -> Skipped:
    for number, loss in losses.items():
        for part, value in loss.parts.items():
            if not value.isfinite():
                pairs = lanes[number].pairs
                return Skipped(network, number, part, pairs.ids.tolist() if pairs else [])
    return Skipped(network)
