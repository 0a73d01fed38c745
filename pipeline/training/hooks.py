"""Hooks: what runs beside the steps of a training run.

One of this project stands in the list in `loop.py`. One from outside is a module with one class,
named in the setting `plugins`:

    @register_hook("name")
    class Mine(Hook):
        def __init__(self, distill: DistillConfig, training: TrainingRun) -> None: ...
"""

from collections.abc import Callable, Iterable
from typing import Self

from pipeline.config import DistillConfig
from pipeline.training.build import TrainingRun
from pipeline.training.step import StepResult


class Hook:
    """Base of all hooks; does nothing.

    Every worker has its own hooks and calls them at the same steps, so a hook may communicate. A
    hook is entered before the first step and left after the last one, also after an error. An
    error of a hook ends the run.

    `step` is always the number of steps done, counting this one.
    """

    def before_update(self, step: int) -> None:
        """The student, or the critic, is about to get new weights."""

    def after_student_update(self, step: int) -> None:
        """The student has new weights; the critic does not learn before this returns.

        Not called where the student had no turn. Where its gradient was not finite they are the
        old ones.
        """

    def after_step(self, step: int, result: StepResult) -> None:
        """A step is done, its result is this worker's."""

    def at_checkpoint(self, step: int) -> None:
        """A checkpoint is due; of the run's own hooks, the last one stores it."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""


class Hooks(Hook):
    """Several hooks as one, called in their order. They are entered and left elsewhere."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = tuple(hooks)

    def before_update(self, step: int) -> None:
        for hook in self._hooks:
            hook.before_update(step)

    def after_student_update(self, step: int) -> None:
        for hook in self._hooks:
            hook.after_student_update(step)

    def after_step(self, step: int, result: StepResult) -> None:
        for hook in self._hooks:
            hook.after_step(step, result)

    def at_checkpoint(self, step: int) -> None:
        for hook in self._hooks:
            hook.at_checkpoint(step)


HookFactory = Callable[[DistillConfig, TrainingRun], Hook | None]
"""Makes a hook from the run's settings and networks; None where the settings leave it out."""

HOOKS: dict[str, HookFactory] = {}
"""Hooks beside the run's own, by name; they run in the order of their registration."""


def register_hook(name: str) -> Callable[[HookFactory], HookFactory]:
    """Add the decorated class or function to `HOOKS`."""

    def register(factory: HookFactory) -> HookFactory:
        HOOKS[name] = factory
        return factory

    return register


def registered_hooks(distill: DistillConfig, training: TrainingRun) -> list[Hook]:
    """One of each of `HOOKS` that the settings ask for."""
    made = (factory(distill, training) for factory in HOOKS.values())
    return [hook for hook in made if hook is not None]


class EMA(Hook):
    """Keeps the moving average of the student's weights."""

    def __init__(self, training: TrainingRun) -> None:
        self._average, self._student = training.ema, training.state.networks["student"]

    def after_student_update(self, step: int) -> None:
        self._average.update_parameters(self._student)


def due(step: int, every: int, last: int) -> bool:
    """Whether something is due after `step` steps: every so many, and after the last one."""
    return step == last or step % every == 0
