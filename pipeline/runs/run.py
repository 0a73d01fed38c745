"""A run on disk: what defines it, its checkpoints, and its student."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from socket import gethostname
from typing import Any

from pipeline.config import Config, settings_yaml
from pipeline.config.no_effect import no_effect
from pipeline.data.fetch import fetch_inputs
from pipeline.data.shards import check_stored
from pipeline.data.storage import Storage, differences, ensure_json
from pipeline.methods.recipe import Recipe
from pipeline.models.denoiser import Denoiser
from pipeline.models.encoders import check_sample_prompts
from pipeline.models.frozen import load_learnt
from pipeline.models.loading import load_teacher
from pipeline.models.lora import merged
from pipeline.models.network import Network
from pipeline.models.students import new_student
from pipeline.runs import events, identity
from pipeline.runs.card import CardWriter
from pipeline.runs.checkpoint import Weights, digest, read_part, read_student
from pipeline.runs.checkpoint_store import CheckpointStore, Commit
from pipeline.runs.conditions import RunConditions
from pipeline.runs.pairs import RunPairs
from pipeline.runs.run_folder import (
    RUN,
    SETTINGS,
    STATE,
    Provenance,
    RunFolder,
    save_student,
    stored_provenance,
)
from pipeline.utils.errors import UserError
from pipeline.utils.files import write_file

PARTS = ("student", "critic", "ema", "student_optimizer", "critic_optimizer")
"""Of the state, each with its SHA-256 in state.json."""


class Run:
    """The run of a config, begun or not; nothing is made or read yet.

    Args:
        config: As the user gave it; with a teacher already copied here a run trains, but its card
            would not know where the teacher came from.

    Attributes:
        storage: The folder of the run, `distill.output`.
        checkpoints: What a restart goes on from.

    Raises:
        UserError: If `distill.output` is a URI of an unknown kind, or its library is missing. Every
            method that reads or writes the folder raises one too where the store refuses.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.storage = Storage(config.distill.output, config.s3, "distill.output")
        self.checkpoints = CheckpointStore(self.storage / "checkpoints", config.distill.keep)

    @cached_property
    def local(self) -> Config:
        """The settings with copies of inputs on this machine; raises as `fetch_inputs`."""
        return fetch_inputs(self.config, *identity.inputs(self.config.distill))

    @cached_property
    def definition(self) -> dict[str, Any]:
        """As `identity.definition`, of the local settings; raises as it and as `local`."""
        return identity.definition(self.local)

    @cached_property
    def pairs(self) -> RunPairs:
        """Those that the run reads, if it reads any."""
        return RunPairs(self.config.pairs.output, self.config.distill.output, self.config.s3)

    @cached_property
    def conditions(self) -> RunConditions | None:
        """Those that its workers read in place of text encoders; raises as `local`."""
        if self.config.distill.conditions == "online":
            return None
        return RunConditions(self.config.embed.output, self.local.teacher, self.config.s3)

    def load_teacher(self) -> Denoiser:
        """The teacher as its workers have it: without text encoders, if conditions are stored.

        Raises:
            UserError: If it cannot be loaded, or the conditions are not of it.
        """
        conditioner = self.conditions.conditioner() if self.conditions else None
        return load_teacher(self.local.teacher, conditioner)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the definition, which tells the checkpoints of another run; raises as it."""
        return hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()

    @property
    def student_uri(self) -> str:
        """Where a finished run has its student."""
        return self._student.uri()

    def claim(self) -> None:
        """Mark the folder as this run's, or make sure that it is.

        Raises:
            UserError: If another run is there (names every difference, and how a new run goes on
                from its weights), its mark is damaged, or a shard of the pairs is missing or of
                another size; and as `definition` and `RunConditions.check`.
        """
        if self.config.distill.sample_prompts:
            check_sample_prompts(self.local.teacher)
        if self.conditions:
            self.conditions.check()
        if Recipe.of(self.config.distill).needs.pairs:
            check_stored(self.pairs.storage, self.pairs.manifest)
        ensure_json(self.storage, RUN, self.definition, "distill.output", self._way_on)
        if seen := identity.seen(self.config.distill, self.local.data):
            ensure_json(self.storage, "data.json", seen, "distill.output")

    def check_own(self) -> None:
        """Make sure that what is in the folder, if anything is, is this run, by this node's files.

        Raises:
            UserError: If it is another (names every difference), as `claim`.
        """
        if self.is_claimed() and (told := differences(self.storage, RUN, self.definition)):
            raise UserError(
                f"distill.output: {self.config.distill.output} has a run of other settings, or of "
                f"other files than are on {gethostname()}: {'; '.join(told.values())}; its own: "
                f"--config {self.storage.uri(SETTINGS)}"
            )

    def hints(self) -> list[str]:
        """What the user may not expect of the run, a line each; raises as `RunPairs`."""
        idle, paired = no_effect(self.config.distill), Recipe.of(self.config.distill).needs.pairs
        return [*idle, *(self.pairs.hints() if paired and self.is_claimed() else ())]

    def sweep(self) -> None:
        """Remove what killed processes have left.

        Of a run that has ended, also checkpoints that it does not keep, and their parts.
        """
        self.storage.sweep()
        if self.is_finished():
            self.checkpoints.finish(self.fingerprint)

    def is_claimed(self) -> bool:
        """Whether this process sees the mark of `claim`: else it would begin a run of its own."""
        return RUN in self.storage.list()

    def is_finished(self) -> bool:
        """Whether the student of this run's last step is saved already.

        Raises:
            UserError: If the student's folder holds something else; where a student is there, also
                as `definition`.
        """
        found = stored_provenance(self._student)
        return found is not None and found == self._provenance(self.config.distill.steps)

    def keep_settings(self) -> None:
        """Leave all settings as `config.yaml`, those of the newest start.

        Raises:
            UserError: If the file cannot be written.
        """
        settings = settings_yaml.dump(self.config.model_dump(mode="json"))
        self._leave(SETTINGS, settings)

    def commits(self) -> list[Commit]:
        """Its checkpoints, the newest first; raises as `CheckpointStore.commits`."""
        return self.checkpoints.commits(self.fingerprint)

    def step(self) -> int:
        """Steps of its newest whole checkpoint, 0 without any; raises as `newest`."""
        return self.checkpoints.step(self.fingerprint)

    def log_restart(self, step: int, error: str) -> None:
        """Write down that the workers failed, and begin again with so many steps done.

        Raises:
            UserError: If `events.jsonl` cannot be read or written.
        """
        output = RunFolder(self.storage)
        output.download(events.FILE)
        events.note(output.folder, events.now("restart", step, error))
        output.upload()

    def finish(self) -> None:
        """Leave `state.json` and the averaged student as a diffusers folder, with its card.

        `state.json` has the step and the SHA-256 of every part of the state: two runs that end
        alike, bit for bit, have the same. With `distill.pick: best` the student is not of the last
        step but of the checkpoint with the best score.

        Raises:
            UserError: If the teacher cannot be loaded, no checkpoint is whole, the newest one is
                not of the last step, or the folder cannot be written; and as `stored_student`,
                `definition` and, with `distill.pick: best`, `best_checkpoint`.
            RuntimeError: As `stored_student`.
        """
        distill, teacher = self.config.distill, load_teacher(self.local.teacher)
        with self.checkpoints.newest(fingerprint=self.fingerprint) as found:
            if found is None:
                raise UserError(
                    f"distill.output: {self.checkpoints.store.uri()} lists no checkpoint of step "
                    f"{distill.steps} yet; run the same command again"
                )
            commit, folder = found
            if commit.step != distill.steps:
                raise UserError(
                    f"distill.steps: {distill.output} has done {commit.step} steps, not "
                    f"{distill.steps}; set that, or choose another folder"
                )
            digests = {part: digest(read_part(folder, part)) for part in PARTS}
            student, step = self.stored_student(teacher, folder), commit.step
        if distill.pick == "best":
            with self.best_checkpoint() as (best, folder):
                student, step = self.stored_student(teacher, folder), best.step
        self._leave(STATE, json.dumps({"step": commit.step, **digests}, indent=2) + "\n")
        provenance, name = self._provenance(commit.step), Path(self.student_uri).name

        def add_card(folder: Path) -> None:
            self.cards.write(folder, student, provenance, step, name)

        save_student(student, self._student, provenance, add_card)

    def stored_student(self, teacher: Denoiser, folder: Path, weights: Weights = "ema") -> Network:
        """The student of a checkpoint's files, in eval mode, its adapters merged.

        Raises:
            UserError: If the files cannot be read, or the student of the settings cannot be made:
                it has times that the schedule has not, or adapters for modules that are not there
                or without peft.
            RuntimeError: If the weights are of another network.
        """
        config = self.config
        student = new_student(teacher, config.network, config.seed, config.distill.student)
        load_learnt(student, read_student(folder, weights))
        return merged(student).eval()

    @contextmanager
    def best_checkpoint(self) -> Iterator[tuple[Commit, Path]]:
        """The checkpoint with the best score, its files in a local folder while the block runs.

        Raises:
            UserError: If the checkpoints cannot be read, none has a score, or the best one is torn.
        """
        best = self.checkpoints.best(self.commits())
        if best is None:
            raise UserError("distill.pick: no checkpoint has a score; set it to last")
        with self.checkpoints.newest(only=best.name) as found:
            if found is None:
                raise UserError(
                    f"distill.pick: the best checkpoint, of step {best.step}, is torn; set it to "
                    "last"
                )
            yield found

    @property
    def cards(self) -> CardWriter:
        """What writes the cards of its students; raises as `local`."""
        return CardWriter(
            self.local.teacher,
            self.config.teacher.output,
            Path(self.config.evaluate.output),
            self.storage,
        )

    def _way_on(self, differing: list[str]) -> str:
        """How a new run goes on with other settings from the weights of the run that is here."""
        newest = next(iter(self.checkpoints.commits()), None)
        if newest is None or any(map(identity.OF_WEIGHTS.fullmatch, differing)):
            return ""
        uri = self.checkpoints.store.uri(newest.name)
        how = "; or go on from its weights in a new run: another folder, and distill.start_from"
        return f"{how} {uri}"

    @property
    def _student(self) -> Storage:
        return self.storage / "student"

    def _provenance(self, steps: int) -> Provenance:
        return {"steps": steps, "pick": self.config.distill.pick, **self.definition}

    def _leave(self, name: str, text: str) -> None:
        """Write a file of the run's folder anew."""
        output = RunFolder(self.storage)
        write_file(output.folder / name, text.encode())
        output.upload()
