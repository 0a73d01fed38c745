"""The optimiser step: microbatches in, one update of the student and one of the critic out."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from accelerate import Accelerator
from torch import Tensor

from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.sampler import GuidedDenoise
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Loss, Microbatch
from pipeline.training.clock import Clock
from pipeline.training.trained import Trained


@dataclass(frozen=True)
class Skipped:
    """A gradient that was not finite, so that its network did not take the step.

    Attributes:
        network: Whose: "student" or "critic".
        microbatch: Number of one of this worker's with a loss that is not finite; None if there
            is none, since it is another worker's, or the losses are finite.
        loss: Name of that loss.
        pairs: Ids of the pairs in that microbatch.
    """

    network: str
    microbatch: int | None = None
    loss: str | None = None
    pairs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Update:
    """What a network's update was made of, on the device still.

    Attributes:
        norm: Of the batch's gradient before it was clipped, (); the same on every worker.
        parts: Losses of this worker's microbatches by their names, () each, by their numbers.
        pairs: The pairs in them.
    """

    norm: Tensor
    parts: Mapping[int, Mapping[str, Tensor]]
    pairs: Mapping[int, PairBatch | None]

    def skipped(self, network: str) -> Skipped | None:
        """Whether the network did not take it, and why; waits until the device has come so far."""
        if self.norm.isfinite():
            return None
        for number, parts in self.parts.items():
            for part, value in parts.items():
                if not value.isfinite():
                    pairs = self.pairs[number]
                    return Skipped(network, number, part, pairs.ids.tolist() if pairs else [])
        return Skipped(network)


@dataclass(frozen=True)
class StepResult:
    """What a step gives back; nothing in it has been waited for.

    Attributes:
        figures: Scalars for the log: this worker's share of each, so that the sum over all
            workers is the batch's figure.
        updates: Of the networks that had their turn, by "student" and "critic".
    """

    figures: dict[str, Tensor]
    updates: dict[str, Update]

    def skipped(self) -> list[Skipped]:
        """The networks that did not take it, the same ones on every worker; waits for the step."""
        found = (update.skipped(name) for name, update in self.updates.items())
        return [each for each in found if each is not None]


@dataclass(frozen=True)
class TrainStep:
    """One step of the optimisation, the same on any number of workers.

    The global batch is split into microbatches. A worker runs its share of them; gradients are
    summed over its microbatches, synchronised once, and divided by the number of all.

    Args:
        method: Losses, and who learns at a step.
        student, critic: The networks in training.
        teacher: Frozen, under its guidance.
        accelerator: Device and gradient synchronisation.
        microbatches: Their number in the global batch.
        clip: Largest norm of a gradient.
        clock: Counts the student's and the critic's share of the time.
    """

    method: DMD
    student: Trained
    critic: Trained
    teacher: GuidedDenoise
    accelerator: Accelerator
    microbatches: int
    clip: float
    clock: Clock = field(default_factory=Clock)

    def __call__(
        self,
        step: int,
        mine: dict[int, Microbatch],
        after_student_update: Callable[[int], None] = lambda steps_done: None,
        before_update: Callable[[int], None] = lambda steps_done: None,
    ) -> StepResult:
        """Run one step.

        The student learns first; the critic then learns the samples that the student gave
        before its update. In the student's turn the critic is called bare: its wrapper would
        leave gradients behind.

        Args:
            step: Counted from 0.
            mine: This worker's microbatches, by their numbers in the global batch.
            after_student_update: Called with the number of steps done, this one included,
                between the student's update and the critic's; not if the student had no turn.
            before_update: Called with the same number before each network's update.
        """
        plan = self.method.plan(step)
        self.student.renew()
        self.critic.renew()
        samples: dict[int, Tensor] = {}
        done = StepResult({}, {})
        before = partial(before_update, step + 1)
        update = partial(self._update, step=step, mine=mine, done=done, before=before)
        if plan.critic and not plan.on_samples:
            with self.clock("student"):
                samples = {
                    n: self.method.samples(self.student.bare, microbatch)
                    for n, microbatch in mine.items()
                }
        if plan.student:

            def student_loss(number: int) -> Loss:
                network, microbatch = self.student.network, mine[number]
                return self.method.student_loss(
                    plan, network, self.teacher, self.critic.bare, microbatch
                )

            with self.clock("student"):
                losses = update("student", self.student, student_loss)
                after_student_update(step + 1)
            samples |= {n: x.samples for n, x in losses.items() if x.samples is not None}
        if plan.critic:

            def critic_loss(number: int) -> Loss:
                return self.method.critic_loss(self.critic.network, samples[number], mine[number])

            with self.clock("critic"):
                update("critic", self.critic, critic_loss)
        return done

    def _update(
        self,
        name: str,
        trained: Trained,
        loss_of: Callable[[int], Loss],
        step: int,
        mine: dict[int, Microbatch],
        done: StepResult,
        before: Callable[[], None],
    ) -> dict[int, Loss]:
        """Backward through this worker's microbatches, one synchronisation, one optimiser step.

        Returns their losses, and adds to what is `done` their mean parts and the norm of
        the batch's gradient before clipping divided by the number of workers.
        """
        share = self.accelerator.num_processes / self.microbatches
        losses, last = {}, max(mine)
        for number in mine:
            with nullcontext() if number == last else self.accelerator.no_sync(trained.network):
                losses[number] = loss_of(number)
                self.accelerator.backward(losses[number].total * (share * mine[number].weight))
        before()
        norm = trained.update(step, self.clip, self.accelerator)
        parts = {number: loss.parts for number, loss in losses.items()}
        pairs = {number: microbatch.pairs for number, microbatch in mine.items()}
        done.updates[name] = Update(norm, parts, pairs)
        for number, loss in losses.items():
            for part, value in loss.parts.items():
                mean = value * (mine[number].weight / self.microbatches)
                done.figures[part] = done.figures.get(part, 0.0) + mean
        done.figures[f"{name}_norm"] = norm / self.accelerator.num_processes
        return losses
