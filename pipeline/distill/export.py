"""The student of a checkpoint as a diffusers folder, whether or not its run has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.distill import run
from pipeline.distill.history import Commit
from pipeline.distill.output import provenance, save_student
from pipeline.errors import UserError
from pipeline.models.build import load_teacher


def export(config: Config) -> None:
    """Save the student of a checkpoint as a folder that diffusers opens.

    Raises:
        UserError: If there is no such checkpoint, it is of other settings, or the folder cannot
            be written or holds something else.
    """
    local, where = fetch_inputs(config, "teacher"), config.export.output
    teacher = load_teacher(local.teacher)
    with _chosen(local) as (commit, folder):
        if commit.fingerprint != run.fingerprint(local):
            raise UserError(
                f"distill.output: {config.distill.output} holds a run with other settings; export "
                "it with its own"
            )
        student = run.stored_student(local, teacher, folder, config.export.weights)
    made = {"steps": commit.step, "weights": config.export.weights, **run.definition(local)}
    provenance(where, config.s3, "export.output")
    save_student(student, where, config.s3, "export.output", made)
    print(f"export   the student of step {commit.step}: {where}")


@contextmanager
def _chosen(config: Config) -> Iterator[tuple[Commit, Path]]:
    """The checkpoint that `export.step` or else `distill.pick` names, in a local folder."""
    history, step = run.history(config), config.export.step
    if step is None and config.distill.pick == "best":
        with run.best_checkpoint(config) as found:
            yield found
        return
    commits = history.commits()
    if not commits:
        raise UserError(f"distill.output: {config.distill.output} has no checkpoint yet")
    only = None
    if step is not None:
        only = next((commit.name for commit in commits if commit.step == step), None)
        if only is None:
            steps = ", ".join(f"{commit.step}" for commit in reversed(commits))
            raise UserError(f"export.step: {step} has no checkpoint; there are those of {steps}")
    with history.newest(only) as found:
        if found is None:
            raise UserError(f"export.step: the checkpoint of step {step} is torn; choose another")
        yield found
