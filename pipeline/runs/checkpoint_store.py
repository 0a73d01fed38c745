"""The checkpoints of a run where they are kept: each is whole or does not count.

    <output>/checkpoints/0000500-1f2e3d4c/*.safetensors    the state, as `checkpoint.write` left it
    <output>/checkpoints/0000500-1f2e3d4c.json             put last: step, fingerprint, checksums
    <output>/checkpoints/0000500-1f2e3d4c.score            its figures, where they are measured

The second half of the name is of the attempt that made it: none ever writes where another did.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.data.storage import Storage
from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256

log = logging.getLogger(__name__)

_NAME = re.compile(r"\d{7,}-[0-9a-f]{8}")
_File = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
_Sum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Commit:
    """What makes the files of a folder a checkpoint.

    Attributes:
        step: Steps done.
        attempt: Name of the attempt that made it.
        fingerprint: Of all that defines the optimisation.
        files: SHA-256 of every file, by its name in the folder.
    """

    step: Annotated[int, Field(ge=0, strict=True)]
    attempt: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    fingerprint: str
    files: Annotated[dict[_File, _Sum], Field(min_length=1)]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.step:07d}-{self.attempt}"


@dataclass(frozen=True)
class Score:
    """How near the averaged student of a checkpoint is to the teacher.

    Attributes:
        fd_teacher: Fréchet distance.
        n: Images of each.
        floor: The same distance, teacher to teacher from other noise, at the same n.
        features: Of what, in words, such as "pixels"; None if an earlier version does not say.
    """

    fd_teacher: float
    n: int
    floor: float | None = None
    features: str | None = None


_SCORE, _COMMIT = TypeAdapter(Score), TypeAdapter(Commit)


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints in a store.

    Args:
        store: Of these checkpoints alone.
        keep: How many of the newest stay; the best by score stays beside them.
    """

    store: Storage
    keep: int

    def add(self, folder: Path, name: str) -> dict[str, str]:
        """Store this worker's files of a checkpoint, all or none; returns their checksums."""
        sums = {}
        try:
            for file in sorted(folder.iterdir()):
                self.store.upload(file, f"{name}/{file.name}")
                sums[file.name] = file_sha256(file).hex()
        except (UserError, OSError):
            with suppress(UserError):
                for stored in sums:
                    self.store.delete(f"{name}/{stored}")
            raise
        return sums

    def commit(self, commit: Commit) -> None:
        """Make stored files a checkpoint, and remove those of this run that are not kept."""
        self.store.put(f"{commit.name}.json", json.dumps(asdict(commit)).encode())
        self._prune(self.commits(commit.fingerprint), commit)

    def finish(self, fingerprint: str) -> None:
        """Remove what a run that has ended does not keep, whichever attempt of it was killed."""
        if commits := self.commits(fingerprint):
            self._prune(commits, None)
        for path in self.store.folder.iterdir() if self.store.folder else ():
            if _NAME.fullmatch(path.name) and not (path.is_file() or any(path.iterdir())):
                path.rmdir()

    def drop(self, names: Collection[str]) -> None:
        """Remove checkpoints, with their scores; of those that are gone nothing is left to do."""
        stored = self.store.tree() if names else {}
        for name in names:
            for own in (f"{name}.json", f"{name}.score"):
                self.store.delete(own)
            for weights in (each for each in stored if each.startswith(f"{name}/")):
                self.store.delete(weights)

    def _prune(self, commits: list[Commit], newest: Commit | None) -> None:
        """Remove checkpoints that are not kept, and weights that never became one.

        Those lie in folders with the name of an attempt.

        Args:
            commits: Of this run, the newest first.
            newest: Later ones stay; None: whoever wrote them is gone.
        """
        kept = {each.name for each in (*commits[: self.keep], newest, self.best(commits)) if each}
        for each in commits:
            if each.name not in kept and _is_past(each.name, newest):
                self.store.delete(f"{each.name}.json")
                for name in each.files:
                    self.store.delete(f"{each.name}/{name}")
        names = self.store.tree()
        for name in names:
            folder = name.split("/")[0]
            unfinished = _NAME.fullmatch(folder) and f"{folder}.json" not in names
            if unfinished and _is_past(folder, newest) and name.endswith(".safetensors"):
                self.store.delete(name)

    def commits(self, fingerprint: str | None = None) -> list[Commit]:
        """All checkpoints, the newest first; what is unreadable is told and left out.

        Args:
            fingerprint: Of the run: those of others are told and left out too; None: all.

        Raises:
            UserError: If the store refuses, or there are some, and not one that can be used.
        """
        found, unused = [], []
        for name in sorted(self.store.list(), reverse=True):
            if _NAME.fullmatch(name.removesuffix(".json")) and name.endswith(".json"):
                try:
                    commit = _COMMIT.validate_json(self.store.get(name))
                except UserError:
                    if name in self.store.list():  # else it was removed meanwhile
                        raise
                    continue
                except ValidationError as error:
                    reason = f"is damaged ({_reason(error)})"
                else:
                    if name != f"{commit.name}.json":
                        reason = f"is damaged (it says that it is {commit.name})"
                    elif fingerprint not in (None, commit.fingerprint):
                        reason = "is of another run"
                    else:
                        found.append(commit)
                        continue
                unused.append(f"{self.store.uri(name)} {reason}")
                _warn_once(f"{unused[-1]} and is not used")
        if unused and not found:
            raise UserError(
                f"{self.store.setting}: {unused[0]}, and there is no other checkpoint: move it "
                "away to begin anew, or choose another folder"
            )
        return found

    def note(self, commit: Commit, score: Score) -> None:
        """Keep the score of a checkpoint, also when the checkpoint itself is not kept."""
        self.store.put(f"{commit.name}.score", json.dumps(asdict(score)).encode())

    def scores(self, commits: list[Commit]) -> dict[str, Score]:
        """By the names of the checkpoints, those that have one."""
        names, found = self.store.list(), {}
        for each in commits:
            name = f"{each.name}.score"
            try:
                if name in names:
                    found[each.name] = _SCORE.validate_json(self.store.get(name))
            except ValidationError:
                log.warning("%s is damaged: its checkpoint has no score", self.store.uri(name))
        return found

    def scores_beyond(self, known: Collection[int]) -> dict[int, Score]:
        """Step -> score, also of checkpoints that are gone; without steps that are known."""
        names = {step: name for step, name in self.scored().items() if step not in known}
        found = dict[int, Score]()
        for step, name in sorted(names.items()):
            with suppress(ValidationError):
                found[step] = _SCORE.validate_json(self.store.get(name))
        return found

    def scored(self) -> dict[int, str]:
        """Step -> name of the object with its score, also of checkpoints that are gone."""
        names = [name for name in self.store.list() if name.endswith(".score")]
        parts = {name: name.partition("-")[0] for name in names}
        return {int(step): name for name, step in parts.items() if step.isdecimal()}

    def best(self, commits: list[Commit]) -> Commit | None:
        """The nearest to the teacher, by images and features as of the newest; None without."""
        scores = self.scores(commits)
        kinds = {name: (score.n, score.features) for name, score in scores.items()}
        scored = [commit for commit in commits if commit.name in scores]
        alike = [each for each in scored if kinds[each.name] == kinds[scored[0].name]]
        return min(alike, key=lambda each: scores[each.name].fd_teacher, default=None)

    def step(self, fingerprint: str | None = None) -> int:
        """Steps of the newest whole checkpoint, 0 without any; as `newest`."""
        with self.newest(fingerprint=fingerprint) as found:
            return found[0].step if found else 0

    @contextmanager
    def newest(
        self, only: str | None = None, fingerprint: str | None = None
    ) -> Iterator[tuple[Commit, Path] | None]:
        """The newest checkpoint of which no bit is lost, in a local folder while the block runs.

        Those that are torn are told in a warning and passed over; None if there never was one.

        Args:
            only: The one of this name, None if it is torn or gone.
            fingerprint: As in `commits`.

        Raises:
            UserError: If the store refuses, or all of them are torn; and as `commits`.
        """
        commits, stored = self.commits(fingerprint), self.store.tree()
        if only is not None:
            commits = [commit for commit in commits if commit.name == only]
        for commit in commits:
            with scratch.temporary_folder() as copy:
                names = [f"{commit.name}/{name}" for name in commit.files]
                lost = [name for name in names if name not in stored]
                if not lost:
                    folder, lost = self._read(commit, copy)
                    if not lost:
                        yield commit, folder
                        return
                log.warning(
                    "%s is torn or missing: the checkpoint of step %d is passed over",
                    self.store.uri(lost[0]),
                    commit.step,
                )
        if commits and only is None:
            raise UserError(
                f"{self.store.setting}: not one checkpoint in {self.store.uri('')} is whole; "
                "move them away to begin anew, or choose another folder"
            )
        yield None

    def _read(self, commit: Commit, copy: Path) -> tuple[Path, list[str]]:
        """Where its files are, as `_local`, and names of those that differ from the commit's sums.

        They are read twice before they count as damaged: a store may have answered wrongly.
        """
        for _ in range(2):
            folder = self._local(commit, copy)
            sums = {name: file_sha256(folder / name).hex() for name in commit.files}
            wrong = [f"{commit.name}/{name}" for name in sums if sums[name] != commit.files[name]]
            if not wrong:
                break
        return folder, wrong

    def _local(self, commit: Commit, copy: Path) -> Path:
        """Where a checkpoint's files are: in their own folder, or copied to the given one."""
        if self.store.folder:
            return self.store.folder / commit.name
        for name in commit.files:
            self.store.download(f"{commit.name}/{name}", copy / name)
        return copy


def _is_past(name: str, newest: Commit | None) -> bool:
    return newest is None or name <= newest.name


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong with a file, and where in it."""
    first = error.errors(include_input=False, include_url=False)[0]
    return " ".join([".".join(map(str, first["loc"])), first["msg"]]).strip()
