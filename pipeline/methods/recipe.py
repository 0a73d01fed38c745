"""What the settings alone say of the method: its phases, its terms, what it needs and costs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

from pipeline.config.distill import DistillConfig
from pipeline.config.terms import BUILT_IN
from pipeline.methods.microbatch import StepPlan
from pipeline.methods.terms import TERMS
from pipeline.methods.terms.term import Needs, NetworkCalls, Term


@dataclass(frozen=True)
class Recipe:
    """Three phases of a list of terms.

    First the student alone learns from the pairs, then the critic alone learns the student's
    samples, then both learn: the critic in every step, the student in every n-th.

    Args:
        distill: The settings.
        terms: Those that have a part in it.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828; the two time scales and the phase of the
    critic alone of DMD2 (Yin et al., 2024), arXiv 2405.14867, Section 4.2.
    """

    distill: DistillConfig
    terms: tuple[Term[Any], ...]

    @classmethod
    def of(cls, distill: DistillConfig) -> "Recipe":
        """The recipe that settings ask for."""
        return cls(distill, tuple(term for term in _all_terms(distill) if term.active))

    def phase(self, step: int) -> int:
        """1, 2 or 3, of a step, counted from 0."""
        first = self.distill.regression_steps
        return 1 + (step >= first) + (step >= first + self.distill.burn_in_steps)

    def plan(self, step: int) -> StepPlan:
        """What happens at a step, counted from 0."""
        if step < self.distill.regression_steps:
            return self._student_alone
        in_third = step - self.distill.regression_steps - self.distill.burn_in_steps
        if in_third < 0 or (in_third + 1) % self.distill.student.every:
            return StepPlan(critic=True)
        return self.both

    def at(self, plan: StepPlan, step_index: int) -> StepPlan:
        """The plan at one of the student's steps, which may be a term's alone; see `Term`."""
        alone = {term.name for term in self.terms if term.alone_at == step_index}
        names = alone & plan.on_samples.keys() or {t.name for t in self.terms if t.alone_at is None}
        weights = {name: weight for name, weight in plan.on_samples.items() if name in names}
        return replace(plan, on_samples=weights)

    @property
    def needs(self) -> Needs:
        """What any term needs."""
        return reduce(or_, (term.needs() for term in self.terms))

    @property
    def shared(self) -> bool:
        """Whether losses share draws and so passes."""
        return self.distill.draws == "shared"

    def step_calls(self, plan: StepPlan, step_index: int, guided: int = 1) -> NetworkCalls:
        """Images through the networks in one step, all its microbatches together.

        Args:
            plan: Of the step.
            step_index: Which of its steps the student learns at.
            guided: Images through the teacher for one prediction: 2 under guidance, else 1.
        """
        plan, rows, pairs = self.at(plan, step_index), self.distill.batch_size, 0
        if plan.on_pairs and not (self.shared and plan.on_samples):
            pairs = self.pair_rows
        fresh = (step_index + 1) * rows if plan.on_samples or plan.critic else 0
        own = NetworkCalls(
            student=fresh + pairs, student_backward=(rows if plan.on_samples else 0) + pairs
        )
        return sum((term.calls(plan, guided) for term in self.terms), own)

    def network_calls(self, guided: int = 1) -> NetworkCalls:
        """Of all steps, each of the student's as often; argument as above."""
        distill = self.distill
        third = distill.steps - distill.regression_steps - distill.burn_in_steps
        both = third // distill.student.every
        indices = range(len(distill.student.times or (0,)))
        found = NetworkCalls()
        for plan, steps in (
            (self._student_alone, distill.regression_steps),
            (StepPlan(critic=True), distill.burn_in_steps + third - both),
            (self.both, both),
        ):
            for index in indices:
                found += self.step_calls(plan, index, guided) * (steps / len(indices))
        return found

    @property
    def _student_alone(self) -> StepPlan:
        weights = {term.name: term.weight_alone for term in self.terms if term.on_pairs}
        return StepPlan(on_pairs={name: weight for name, weight in weights.items() if weight})

    @property
    def both(self) -> StepPlan:
        """Of a step in which student and critic learn."""
        weighted = [term for term in self.terms if term.weight]
        return StepPlan(
            on_pairs={term.name: term.weight for term in weighted if term.on_pairs},
            on_samples={term.name: term.weight for term in weighted if not term.on_pairs},
            critic=True,
        )

    @property
    def pair_rows(self) -> int:
        """Pairs of a step that learns from some, all its microbatches together."""
        return next(t.settings.batch_size for t in self.terms if t.name == "regression")


def _all_terms(distill: DistillConfig) -> Iterator[Term[Any]]:
    for name in BUILT_IN:
        yield TERMS[name](name, getattr(distill, name), distill)
    for name, settings in distill.terms.items():
        yield TERMS[name](name, settings, distill)
