"""What keeps numbers that are not finite out of the weights, and says where they came from."""

import json
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from pipeline.distill.step import Skipped
from pipeline.errors import UserError


@dataclass
class Watchdog:
    """Counts the steps that were skipped in a row and ends the run when they are too many.

    Args:
        limit: Steps in a row.
        folder: Of the run, for `skipped.jsonl`.
        accelerator: Of the run.
    """

    limit: int
    folder: Path
    accelerator: Accelerator
    in_a_row: int = 0
    total: int = 0

    def look(self, step: int, skipped: list[Skipped]) -> None:
        """Take note of a step, counted from 1; every worker calls it with what it has seen.

        Raises:
            UserError: If it is one too many; names the loss, the lane and the file with the
                batch's ids.
        """
        if not skipped:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        rows = gather_object([{"step": step, **vars(each)} for each in skipped])
        file = self.folder / "skipped.jsonl"
        if self.accelerator.is_main_process:
            with file.open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in rows)
        if self.in_a_row == self.limit:
            found = [row for row in rows if row["loss"]] or rows
            raise UserError(
                f"step {step}: {self.limit} steps in a row without a finite gradient, here "
                f"{_where(found[0])}; the batches are in {file}, the last checkpoint is good; "
                "start another run with a lower learning rate or a smaller distill.clip"
            )


def _where(row: dict[str, object]) -> str:
    if row["loss"] is None:
        return f"of the {row['network']} though its losses are finite"
    return f"of the {row['network']}: loss {row['loss']!r} in lane {row['lane']}"
