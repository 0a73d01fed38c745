"""What tells of numbers that are not finite, and where they came from."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from pipeline.training.hooks import Hook
from pipeline.training.step import Skipped, StepResult
from pipeline.utils.errors import UserError


class Watchdog(Hook):
    """Counts the steps that a network skipped in a row and ends the run when they are too many.

    A step is looked at after the next one, when the device is done with it.

    Args:
        limit: Steps in a row.
        folder: Of the run, for `skipped.jsonl`.
        accelerator: Of the run.
    """

    def __init__(self, limit: int, folder: Path, accelerator: Accelerator) -> None:
        self._limit, self._accelerator = limit, accelerator
        self._file = folder / "skipped.jsonl"
        self._in_a_row = {"student": 0, "critic": 0}
        self._newest: tuple[int, StepResult] | None = None

    def after_step(self, step: int, result: StepResult) -> None:
        """Look at the step before; raises as `_look`."""
        before, self._newest = self._newest, (step, result)
        if before is not None:
            self._look(*before)

    def __exit__(self, *error: object) -> None:
        """Look at the last step, unless there was an error; raises as `_look`."""
        if self._newest is not None and error[0] is None:
            self._look(*self._newest)

    def _look(self, step: int, result: StepResult) -> None:
        """Count, and write down what was skipped.

        Raises:
            UserError: If it is one too many; names the loss, the microbatch and the file with the
                batch's ids.
        """
        found = result.skipped()
        skipped = {each.network for each in found}
        for network in self._in_a_row:
            if network in skipped:
                self._in_a_row[network] += 1
            elif network in result.updates:
                self._in_a_row[network] = 0
        if not skipped:
            return
        rows: list[dict[str, Any]] = gather_object([_row(step, each) for each in found])
        if self._accelerator.is_main_process:
            with self._file.open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in rows)
        for network in sorted(skipped):
            if self._in_a_row[network] == self._limit:
                raise self._too_many(step, [row for row in rows if row["network"] == network])

    def _too_many(self, step: int, rows: list[dict[str, Any]]) -> UserError:
        first = next((row for row in rows if row["loss"]), rows[0])
        return UserError(
            f"step {step}: {self._limit} steps in a row without a finite gradient, here "
            f"{_where(first)}; the batches are in {self._file.name} of distill.output, the "
            "last checkpoint is good; start another run with a lower learning rate or a "
            "smaller distill.clip"
        )


def _row(step: int, skipped: Skipped) -> dict[str, Any]:
    """A line of `skipped.jsonl`."""
    return {
        "step": step,
        "network": skipped.network,
        "lane": skipped.microbatch,
        "loss": skipped.loss,
        "pairs": skipped.pairs,
    }


def _where(row: dict[str, Any]) -> str:
    if row["loss"] is None:
        return f"of the {row['network']} though its losses are finite"
    return f"of the {row['network']}: loss {row['loss']!r} in microbatch {row['lane']}"
