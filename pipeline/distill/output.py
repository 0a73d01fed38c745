"""The folder of a run: a local one, or one on S3 with files on their way there."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.config import Config
from pipeline.data.store import open_store
from pipeline.errors import UserError

log = logging.getLogger(__name__)

MADE = "student/provenance.json"
"""Stored last: with it the student is there."""


class Output:
    """What a run leaves beside its checkpoints: figures, pictures, student.

    Args:
        config: Of the run.

    Attributes:
        store: Where it is kept.
        folder: Where this process writes; for S3 a temporary one, which `push` copies there.
    """

    def __init__(self, config: Config) -> None:
        where = config.distill.output
        self.store = open_store(where, config.s3, "distill.output")
        self._scratch = TemporaryDirectory() if "://" in where else None
        self.folder = Path(self._scratch.name if self._scratch else where)
        self._pushed: dict[str, int] = {}

    def pull(self, *names: str) -> None:
        """Bring files that an earlier attempt left on S3, those that are there."""
        for name in names if self._scratch else ():
            if name in self.store.list():
                self.store.download(name, self.folder / name)

    def push(self) -> None:
        """Store the files that are new or changed since the last call.

        Raises:
            UserError: If the store refuses.
        """
        if self._scratch is None:
            return
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
        for name in sorted(found, key=lambda name: (name == MADE, name)):
            path = found[name]
            if path.is_file() and self._pushed.get(name) != (when := path.stat().st_mtime_ns):
                self.store.upload(path, name)
                self._pushed[name] = when

    def try_push(self) -> None:
        """As `push`; what cannot be stored now is told and stored with the next call."""
        try:
            self.push()
        except UserError as error:
            log.warning("%s: tried again later", error)

    def provenance(self) -> dict[str, Any] | None:
        """What made the student that is there; None if there is none.

        Raises:
            UserError: If its folder holds something else.
        """
        names = [name for name in self.store.tree() if name.startswith("student/")]
        if not names:
            return None
        content = None
        if MADE in names:
            try:
                content = json.loads(self.store.get(MADE))
            except ValueError:
                pass
        if not isinstance(content, dict):
            where = self.store.where("student")
            raise UserError(f"{where} is in use by something else: choose another folder")
        return content
