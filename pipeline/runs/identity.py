"""A run as a whole: what defines it, whether it is finished, and its student's folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Config, settings_yaml
from pipeline.data.plans import RealPlan
from pipeline.data.shards import check_stored, read_manifest
from pipeline.data.store import open_store, record
from pipeline.methods.terms.regression import mark
from pipeline.models.denoiser import Denoiser
from pipeline.models.frozen import load_learnt
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.lora import merged
from pipeline.models.network import Network
from pipeline.models.students import new_student
from pipeline.runs import events, init_from
from pipeline.runs.card import write_card
from pipeline.runs.checkpoint import Weights, digest, read_part, read_student
from pipeline.runs.checkpoint_store import CheckpointStore, Commit
from pipeline.runs.run_folder import Made, RunFolder, provenance, save_student
from pipeline.utils.errors import UserError
from pipeline.utils.files import write_file

_MARK = "run.json"
SETTINGS = "config.yaml"
PARTS = ("student", "critic", "ema", "student_optimizer", "critic_optimizer")

# Folders, workers and cadences do not change the optimisation, nor does a later end.
_FREE = {
    *("output", "workers", "log_every", "sample_every", "checkpoint_every", "keep", "steps"),
    *("bad_steps", "sharded", "shard_teacher", "recompute", "start_from", "start_weights"),
    *("scoring", "pick", "wandb"),
}
_FREE_OF_REGRESSION = {"distance", "lpips", "decoder", "cache"}
"""`mark` says what these come to."""


def definition(config: Config) -> dict[str, Any]:
    """All that defines the optimisation, checked: networks, pairs, losses, optimisers, seed.

    Raises:
        UserError: If the teacher, the pairs or the weights of the distance cannot be read, or the
            pairs are of another teacher.
    """
    distill = config.distill
    teacher = teacher_fingerprint(config.teacher)
    pairs, distance = None, {}
    if needs_pairs(config):
        manifest = read_manifest(open_store(config.pairs.output, config.s3))
        manifest.check_teacher(teacher)
        pairs = {"plan": manifest.plan.fingerprint(), "count": manifest.count}
        distance = mark(distill.regression)
    return {
        "seed": config.seed,
        "teacher": teacher,
        "pairs": pairs,
        "start": init_from.mark(config) if distill.start_from else None,
        "guidance": config.pairs.guidance,
        "network": config.network.model_dump(mode="json"),
        "distill": distill.model_dump(
            mode="json", exclude=dict.fromkeys(_FREE, True) | {"regression": _FREE_OF_REGRESSION}
        ),
        **distance,
        **_real_images(config),
    }


def fingerprint(config: Config) -> str:
    """SHA-256 of the `definition`, for checkpoints."""
    return hashlib.sha256(json.dumps(definition(config), sort_keys=True).encode()).hexdigest()


def needs_pairs(config: Config) -> bool:
    """Whether any step learns from stored pairs."""
    distill = config.distill
    regression = distill.regression_steps > 0 or distill.regression.weight > 0
    return regression or distill.gan.real == "pairs"


def claim(config: Config) -> None:
    """Mark the output folder as this run's, or make sure that it is.

    Raises:
        UserError: If another run is there (names every difference), or a shard of the pairs is
            missing or of another size; and as `definition`.
    """
    if needs_pairs(config):
        store = open_store(config.pairs.output, config.s3)
        check_stored(store, read_manifest(store))
    record(RunFolder(config).store, _MARK, definition(config), "distill.output")


def keep_settings(config: Config) -> None:
    """Leave all settings as `config.yaml`, those of the newest start.

    Raises:
        UserError: If the store refuses.
    """
    output = RunFolder(config)
    write_file(
        output.folder / SETTINGS, settings_yaml.dump(config.model_dump(mode="json")).encode()
    )
    output.upload()


def log_restart(config: Config, step: int, error: str) -> None:
    """Write down that the workers failed, and begin again with so many steps done.

    Raises:
        UserError: If the store refuses.
    """
    output = RunFolder(config)
    output.download(events.FILE)
    events.note(output.folder, events.now("restart", step, error))
    output.upload()


def claimed(config: Config) -> bool:
    """Whether this process sees the mark of `claim`: else it would begin a run of its own."""
    return _MARK in RunFolder(config).store.list()


def finished(config: Config) -> bool:
    """Whether the student of this run's last step is saved already."""
    found = provenance(student_folder(config), config.s3, "distill.output")
    return found is not None and found == _provenance(config, config.distill.steps)


def history(config: Config) -> CheckpointStore:
    """The run's checkpoints."""
    store = open_store(f"{config.distill.output}/checkpoints", config.s3, "distill.output")
    return CheckpointStore(store, config.distill.keep)


def finish(config: Config, address: str = "") -> None:
    """Leave `state.json` and the averaged student as a diffusers folder, with its card.

    `state.json` has the step and the SHA-256 of every part of the state: two runs that end
    alike, bit for bit, have the same. With `distill.pick: best` the student is not of the last
    step but of the checkpoint with the best score.

    Args:
        config: Of the run, with its teacher here.
        address: `teacher.output` as it was given.

    Raises:
        UserError: If a checkpoint cannot be read or is not of the last step, or the folder
            cannot be written.
    """
    teacher = load_teacher(config.teacher)
    with history(config).newest() as found:
        assert found is not None, "a run ends with a checkpoint"
        commit, folder = found
        if commit.step != config.distill.steps:
            raise UserError(
                f"distill.steps: {config.distill.output} has done {commit.step} steps, not "
                f"{config.distill.steps}; set that, or choose another folder"
            )
        digests = {part: digest(read_part(folder, part)) for part in PARTS}
        student, step = stored_student(config, teacher, folder), commit.step
    if config.distill.pick == "best":
        with best_checkpoint(config) as (best, folder):
            student, step = stored_student(config, teacher, folder), best.step
    state = json.dumps({"step": commit.step, **digests}, indent=2) + "\n"
    output = RunFolder(config)
    write_file(output.folder / "state.json", state.encode())
    output.upload()
    made, where = _provenance(config, commit.step), student_folder(config)

    def add_files(folder: Path) -> None:
        write_card(folder, config, student, made, step, Path(where).name, address)

    save_student(student, where, config.s3, "distill.output", made, add_files)


def stored_student(
    config: Config, teacher: Denoiser, folder: Path, weights: Weights = "ema"
) -> Network:
    """The student of a checkpoint's files, in eval mode, its adapters merged.

    Raises:
        UserError: If the files cannot be read.
    """
    student = new_student(teacher, config.network, config.seed, config.distill.student)
    load_learnt(student, read_student(folder, weights))
    return merged(student).eval()


@contextmanager
def best_checkpoint(config: Config) -> Iterator[tuple[Commit, Path]]:
    """The checkpoint with the best score, its files in a local folder while the block runs.

    Raises:
        UserError: If no checkpoint has a score, or the best one is torn.
    """
    best = history(config).best(history(config).commits())
    if best is None:
        raise UserError("distill.pick: no checkpoint has a score; set it to last")
    with history(config).newest(only=best.name) as found:
        if found is None:
            raise UserError(
                f"distill.pick: the best checkpoint, of step {best.step}, is torn; set it to last"
            )
        yield found


def student_folder(config: Config) -> str:
    """Where a finished run has its student."""
    return f"{config.distill.output}/student"


def _provenance(config: Config, steps: int) -> Made:
    return {"steps": steps, "pick": config.distill.pick, **definition(config)}


def _real_images(config: Config) -> dict[str, Any]:
    """What defines the real images; nothing without a GAN, and for those of the pairs.

    Raises:
        UserError: If an encoded set is not complete.
    """
    match config.distill.gan.real:
        case "data":
            return {"real": config.data.model_dump(mode="json", exclude={"folder"})}
        case "encoded":
            manifest = read_manifest(open_store(config.encode.output, config.s3), RealPlan)
            return {"real": {"plan": manifest.plan.fingerprint(), "count": manifest.count}}
    return {}
