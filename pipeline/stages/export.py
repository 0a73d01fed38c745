"""The student of a checkpoint as a diffusers folder, whether or not its run has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Config
from pipeline.data.fetch import fetch
from pipeline.data.hub import open_repo, push_model
from pipeline.data.storage import Storage
from pipeline.models.export.card import usage
from pipeline.models.export.comfyui import save_comfyui
from pipeline.models.export.comfyui.check import check_comfyui
from pipeline.models.export.save import PROVENANCE, AddFiles, add_variant
from pipeline.models.loading import load_teacher
from pipeline.models.network import Network
from pipeline.runs.checkpoint_store import Commit
from pipeline.runs.run import Run
from pipeline.runs.run_folder import Provenance, save_student, stored_provenance
from pipeline.utils.errors import UserError


def export(config: Config) -> None:
    """Save the student of a checkpoint as a folder that diffusers opens, and push it if asked.

    Raises:
        UserError: If there is no such checkpoint, it is of other settings, the folder cannot be
            written or holds something else, ComfyUI cannot take the student, or the
            Hub refuses.
    """
    asked, run = config.export, Run(config)
    storage = Storage(asked.output, config.s3, "export.output")
    run.check_own()
    teacher = load_teacher(run.local.teacher)
    with _chosen(run) as (commit, folder):
        student = run.stored_student(teacher, folder, asked.weights)
    provenance = {"steps": commit.step, "weights": asked.weights, **run.definition}
    stored_provenance(storage)
    if asked.comfyui:
        check_comfyui(student)
    if asked.push:
        open_repo(asked.push, asked.private, PROVENANCE, "export.push")
    save_student(student, storage, provenance, _extras(run, student, provenance, commit.step))
    print(f"export   the student of step {commit.step}: {asked.output}")
    if asked.push:
        there = fetch(asked.output, config.s3, "export.output")
        message = f"Student of step {commit.step}"
        print(f"export   pushed: {push_model(there, asked.push, message, 'export.push')}")


def _extras(run: Run, student: Network, provenance: Provenance, step: int) -> AddFiles:
    """What the settings put beside the student: variants, files for ComfyUI, and the card."""
    asked = run.config.export
    name = asked.push or Path(asked.output).name

    def add_files(folder: Path) -> None:
        more = []
        if asked.variant:
            add_variant(folder, asked.variant, student.left_out)
            code = usage(student, name, half=True)
            more.append(f"## In half precision\n\n```python\n{code}```")
        if asked.comfyui:
            more.append(save_comfyui(student, folder, name.rpartition("/")[2]))
        run.cards.write(folder, student, provenance, step, name, more)

    return add_files


@contextmanager
def _chosen(run: Run) -> Iterator[tuple[Commit, Path]]:
    """The checkpoint that `export.step` or else `distill.pick` names, in a local folder."""
    step, distill = run.config.export.step, run.config.distill
    if step is None and distill.pick == "best":
        with run.best_checkpoint() as found:
            yield found
        return
    commits = run.commits()
    if not commits:
        raise UserError(f"distill.output: {distill.output} has no checkpoint yet")
    only = None
    if step is not None:
        only = next((commit.name for commit in commits if commit.step == step), None)
        if only is None:
            steps = ", ".join(f"{commit.step}" for commit in reversed(commits))
            raise UserError(f"export.step: {step} has no checkpoint; there are those of {steps}")
    with run.checkpoints.newest(only, run.fingerprint) as found:
        if found is None:
            raise UserError(f"export.step: the checkpoint of step {step} is torn; choose another")
        yield found
