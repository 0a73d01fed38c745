"""The student of a checkpoint as a diffusers folder, whether or not its run has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Config
from pipeline.data.fetch import fetch, fetch_inputs
from pipeline.data.hub import open_repo, push_model
from pipeline.models.export.card import usage
from pipeline.models.export.comfyui import check_comfyui, save_comfyui
from pipeline.models.export.save import PROVENANCE, AddFiles, add_variant
from pipeline.models.loading import load_teacher
from pipeline.models.network import Network
from pipeline.runs import identity
from pipeline.runs.card import write_card
from pipeline.runs.checkpoint_store import Commit
from pipeline.runs.run_folder import Made, provenance, save_student
from pipeline.utils.errors import UserError


def export(config: Config) -> None:
    """Save the student of a checkpoint as a folder that diffusers opens, and push it if asked.

    Raises:
        UserError: If there is no such checkpoint, it is of other settings, the folder cannot be
            written or holds something else, ComfyUI does not know the student's family, or the
            Hub refuses.
    """
    asked, where = config.export, config.export.output
    local = fetch_inputs(config, "teacher")
    teacher = load_teacher(local.teacher)
    with _chosen(local) as (commit, folder):
        if commit.fingerprint != identity.fingerprint(local):
            raise UserError(
                f"distill.output: {config.distill.output} holds a run with other settings; export "
                "it with its own"
            )
        student = identity.stored_student(local, teacher, folder, asked.weights)
    made = {"steps": commit.step, "weights": asked.weights, **identity.definition(local)}
    provenance(where, config.s3, "export.output")
    if asked.comfyui:
        check_comfyui(student)
    if asked.push:
        open_repo(asked.push, asked.private, PROVENANCE, "export.push")
    add_files = _dress(local, student, made, commit.step, config.teacher.output)
    save_student(student, where, config.s3, "export.output", made, add_files)
    print(f"export   the student of step {commit.step}: {where}")
    if asked.push:
        there = fetch(where, config.s3, "export.output") if "://" in where else Path(where)
        message = f"Student of step {commit.step}"
        print(f"export   pushed: {push_model(there, asked.push, message, 'export.push')}")


def _dress(config: Config, student: Network, made: Made, step: int, address: str) -> AddFiles:
    """What the settings put beside the student: variants, files for ComfyUI, and the card."""
    asked = config.export
    name = asked.push or Path(asked.output).name

    def add_files(folder: Path) -> None:
        more = []
        if asked.variant:
            add_variant(folder, asked.variant)
            code = usage(student, name, half=True)
            more.append(f"## In half precision\n\n```python\n{code}```")
        if asked.comfyui:
            more.append(save_comfyui(student, folder, name.rpartition("/")[2]))
        write_card(folder, config, student, made, step, name, address, more)

    return add_files


@contextmanager
def _chosen(config: Config) -> Iterator[tuple[Commit, Path]]:
    """The checkpoint that `export.step` or else `distill.pick` names, in a local folder."""
    history, step = identity.history(config), config.export.step
    if step is None and config.distill.pick == "best":
        with identity.best_checkpoint(config) as found:
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
