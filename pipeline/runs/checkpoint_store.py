"""The checkpoints of a run where they are kept: each is whole or does not count.

    <output>/checkpoints/0000500-1f2e3d4c/*.safetensors    the state, as `checkpoint.write` left it
    <output>/checkpoints/0000500-1f2e3d4c.json             put last: step, fingerprint, checksums
    <output>/checkpoints/0000500-1f2e3d4c.score            its figures, where they are measured

The second half of the name is of the attempt that made it, so that no attempt ever writes where
another one did.
"""

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256

log = logging.getLogger(__name__)

_NAME = re.compile(r"\d{7,}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Commit:
    """What makes the files of a folder a checkpoint.

    Attributes:
        step: Steps done.
        attempt: Name of the attempt that made it.
        fingerprint: Of all that defines the optimisation.
        files: SHA-256 of every file, by its name in the folder.
    """

    step: int
    attempt: str
    fingerprint: str
    files: dict[str, str]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.step:07d}-{self.attempt}"


@dataclass(frozen=True)
class Score:
    """How near the averaged student of a checkpoint is to the teacher.

    Attributes:
        fd_teacher: Fréchet distance, on the classifier's features or, without one, on pixels.
        n: Images of each.
        floor: The same distance, teacher to teacher from other noise, at the same n.
    """

    fd_teacher: float
    n: int
    floor: float | None = None


_SCORE = TypeAdapter(Score)


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
        """Store this worker's files of a checkpoint; returns their checksums."""
        sums = {}
        for file in sorted(folder.iterdir()):
            self.store.upload(file, f"{name}/{file.name}")
            sums[file.name] = file_sha256(file).hex()
        return sums

    def commit(self, commit: Commit) -> None:
        """Make stored files a checkpoint, and remove those of this run that are not kept."""
        self.store.put(f"{commit.name}.json", json.dumps(asdict(commit)).encode())
        commits = self.commits()
        kept = {each.name for each in (*commits[: self.keep], commit, self.best(commits)) if each}
        for each in commits:
            ours = each.fingerprint == commit.fingerprint and each.name <= commit.name
            if ours and each.name not in kept:
                self.store.delete(f"{each.name}.json")
                for name in each.files:
                    self.store.delete(f"{each.name}/{name}")
        for name in self._unfinished(commits, commit):
            self.store.delete(name)

    def _unfinished(self, commits: list[Commit], newest: Commit) -> list[str]:
        """Weights in folders with the name of an earlier attempt that never became a checkpoint."""
        known = {each.name for each in commits}
        files = [name for name in self.store.tree() if name.endswith(".safetensors")]
        folders = {name: name.split("/")[0] for name in files}
        return [
            name
            for name, folder in folders.items()
            if _NAME.fullmatch(folder) and folder not in known and folder <= newest.name
        ]

    def commits(self) -> list[Commit]:
        """All checkpoints, the newest first; what is unreadable is told and left out."""
        found, damaged = [], []
        for name in sorted(self.store.list(), reverse=True):
            if name.endswith(".json"):
                try:
                    found.append(Commit(**json.loads(self.store.get(name))))
                except (ValueError, TypeError):
                    damaged.append(self.store.uri(name))
                    log.warning("%s is damaged and is not used", damaged[-1])
                except UserError:
                    if name in self.store.list():  # else it was removed meanwhile
                        raise
        if damaged and not found:
            raise UserError(f"{damaged[0]} is damaged, and there is no other checkpoint: delete it")
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

    def scored(self) -> dict[int, str]:
        """Step -> name of the object with its score, also of checkpoints that are gone."""
        names = [name for name in self.store.list() if name.endswith(".score")]
        parts = {name: name.partition("-")[0] for name in names}
        return {int(step): name for name, step in parts.items() if step.isdecimal()}

    def best(self, commits: list[Commit]) -> Commit | None:
        """The one nearest to the teacher; None if none has a score."""
        scores = self.scores(commits)
        scored = [commit for commit in commits if commit.name in scores]
        return min(scored, key=lambda each: scores[each.name].fd_teacher, default=None)

    def step(self) -> int:
        """Steps of the newest whole checkpoint, 0 without any; raises as `newest`."""
        with self.newest() as found:
            return found[0].step if found else 0

    @contextmanager
    def newest(self, only: str | None = None) -> Iterator[tuple[Commit, Path] | None]:
        """The newest checkpoint of which no bit is lost, in a local folder while the block runs.

        Those that are torn are told in a warning and passed over; None if there never was one.
        With `only` the one of this name, None if it is torn or gone.

        Raises:
            UserError: If the store refuses, or all of them are torn.
        """
        commits, stored = self.commits(), self.store.tree()
        if only is not None:
            commits = [commit for commit in commits if commit.name == only]
        for commit in commits:
            with tempfile.TemporaryDirectory() as copy:
                names = [f"{commit.name}/{name}" for name in commit.files]
                lost = [name for name in names if name not in stored]
                if not lost:
                    folder = self._local(commit, Path(copy))
                    sums = {name: file_sha256(folder / name).hex() for name in commit.files}
                    if sums == commit.files:
                        yield commit, folder
                        return
                    lost = [n for n in names if sums[Path(n).name] != commit.files[Path(n).name]]
                log.warning(
                    "%s is torn or missing: the checkpoint of step %d is passed over",
                    self.store.uri(lost[0]),
                    commit.step,
                )
        if commits and only is None:
            raise UserError(
                f"{self.store.uri('')}: not one checkpoint is whole; delete it to start again"
            )
        yield None

    def _local(self, commit: Commit, copy: Path) -> Path:
        """Where a checkpoint's files are: in their own folder, or copied to the given one."""
        if self.store.folder:
            return self.store.folder / commit.name
        for name in commit.files:
            self.store.download(f"{commit.name}/{name}", copy / name)
        return copy
