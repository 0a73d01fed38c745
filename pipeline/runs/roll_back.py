"""Going back: a failing run goes on from a sound checkpoint, once, and more slowly."""

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from pipeline.runs.run import Run
from pipeline.utils.errors import UserError

FILE = "roll_back.json"
SLOWER = 0.5
"""What the student's learning rate is multiplied by afterwards."""


@dataclass(frozen=True)
class RollBack:
    """Where a run went back to.

    Attributes:
        step: Steps of the checkpoint that it went back to; 0: to the beginning.
        at: Steps done when it was found failing.
        rate: What the student's learning rate is multiplied by since then.
        dropped: Names of the checkpoints between, which count no longer.
    """

    step: int
    at: int
    rate: float
    dropped: tuple[str, ...]


_ROLL_BACK = TypeAdapter(RollBack)


def rolled_back(run: Run) -> RollBack | None:
    """Whether and how a run went back.

    Raises:
        UserError: If the store refuses, or the file is damaged.
    """
    if FILE not in run.storage.list(FILE):
        return None
    try:
        return _ROLL_BACK.validate_json(run.storage.get(FILE))
    except ValidationError as error:
        raise UserError(
            f"distill.output: {run.storage.uri(FILE)} is damaged, and says which checkpoints "
            "count; start another run, from one of them (distill.start_from)"
        ) from error


def roll_back(run: Run, at: int, sound: int) -> RollBack:
    """Have a run go on from its best checkpoint of those up to a sound step, or the last of them.

    One worker calls it, once in a run; without such a checkpoint the run begins again.

    Args:
        run: Of which nothing is being stored.
        at: Steps done.
        sound: Up to which its checkpoints are.

    Raises:
        UserError: If the store refuses.
    """
    commits = run.commits()
    before = [commit for commit in commits if commit.step <= sound]
    goal = run.checkpoints.best(before) or next(iter(before), None)
    step = goal.step if goal else 0
    dropped = tuple(commit.name for commit in commits if commit.step > step)
    found = RollBack(step, at, SLOWER, dropped)
    run.storage.put(FILE, json.dumps(asdict(found)).encode())
    drop(run)
    return found


def drop(run: Run) -> None:
    """Remove the checkpoints that count no longer, as far as they are still there.

    Raises:
        UserError: As `rolled_back`.
    """
    if found := rolled_back(run):
        run.checkpoints.drop(found.dropped)
