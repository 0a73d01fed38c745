"""What tells of numbers that are not finite, where they came from, and of a run that drifts."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from pipeline.training.step import StepResult
from pipeline.utils.errors import UserError

log = logging.getLogger(__name__)


_DRIFT = {
    "sample_std": (
        0.5,
        2.0,
        "the student's samples become all alike, or blow up; lower distill.student.lr, raise "
        "distill.student.every or distill.regression.weight",
    ),
    "critic": (
        0.0,
        5.0,
        "the critic loses the student; raise distill.student.every or lower distill.student.lr",
    ),
    "critic_norm": (0.0, 20.0, "the critic's gradients grow; lower distill.critic.lr"),
}
"""Figure -> the parts of its first value between which it is left alone, and what to do."""


@dataclass
class Watchdog:
    """Counts the steps that a network skipped in a row and ends the run when they are too many.

    Args:
        limit: Steps in a row.
        folder: Of the run, for `skipped.jsonl`.
        accelerator: Of the run.

    Attributes:
        total: Steps that a network skipped in this attempt.
    """

    limit: int
    folder: Path
    accelerator: Accelerator
    total: int = 0
    _in_a_row: dict[str, int] = field(default_factory=dict)
    _first: dict[str, float] = field(default_factory=dict)
    _step_conditioned: set[str] = field(default_factory=set)

    def look(self, step: int, done: StepResult) -> None:
        """Take note of a step, counted from 1; every worker calls it with what it has seen.

        Raises:
            UserError: If it is one too many; names the loss, the lane and the file with the
                batch's ids.
        """
        lost = {each.network for each in done.skipped}
        for network in ("student", "critic"):
            if f"{network}_norm" in done.figures:
                row = self._in_a_row.get(network, 0)
                self._in_a_row[network] = row + 1 if network in lost else 0
        if not lost:
            return
        self.total += 1
        rows = gather_object([{"step": step, **vars(each)} for each in done.skipped])
        file = self.folder / "skipped.jsonl"
        if self.accelerator.is_main_process:
            with file.open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in rows)
        for network in sorted(lost):
            if self._in_a_row[network] == self.limit:
                rows = [row for row in rows if row["network"] == network]
                found = [row for row in rows if row["loss"]] or rows
                raise UserError(
                    f"step {step}: {self.limit} steps in a row without a finite gradient, here "
                    f"{_where(found[0])}; the batches are in {file.name} of distill.output, the "
                    "last checkpoint is good; start another run with a lower learning rate or a "
                    "smaller distill.clip"
                )

    def drift(self, step: int, figures: dict[str, float]) -> None:
        """Warn, once for each, where the samples or a gradient are no longer what they were.

        Args:
            step: Steps done.
            figures: The log's, over all lanes.
        """
        for name, (low, high, hint) in _DRIFT.items():
            if name not in figures:
                continue
            value, first = figures[name], self._first.setdefault(name, figures[name])
            if not low * first <= value <= high * first and name not in self._step_conditioned:
                self._step_conditioned.add(name)
                log.warning(
                    "step %d: %s went from %.3g to %.3g: %s", step, name, first, value, hint
                )


def _where(row: dict[str, object]) -> str:
    if row["loss"] is None:
        return f"of the {row['network']} though its losses are finite"
    return f"of the {row['network']}: loss {row['loss']!r} in lane {row['lane']}"
