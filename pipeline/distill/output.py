"""The folder of a run: a local one, or one on S3 with a working copy on this machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.data.fetch import cache_folder
from pipeline.data.store import open_store
from pipeline.errors import UserError


class Output:
    """What a run leaves beside its checkpoints: figures, pictures, student.

    Args:
        config: Of the run.

    Attributes:
        store: Where it is kept.
        folder: Where this process writes; of S3, a copy that `push` brings up to date there.
    """

    def __init__(self, config: Config) -> None:
        where = config.distill.output
        self.store = open_store(where, config.s3, "distill.output")
        self._remote = "://" in where
        key = hashlib.sha256(f"{where} {config.s3.endpoint}".encode()).hexdigest()[:32]
        self.folder = cache_folder() / "runs" / key if self._remote else Path(where)
        self._pushed: dict[str, int] = {}

    def pull(self, name: str) -> None:
        """Bring a file that an earlier attempt left on S3, if there is one."""
        if self._remote and name in self.store.tree():
            self.store.download(name, self.folder / name)

    def push(self) -> None:
        """Store the files that are new or changed since the last call.

        Raises:
            UserError: If the store refuses.
        """
        if not self._remote:
            return
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and self._pushed.get(name) != (when := path.stat().st_mtime_ns):
                self.store.upload(path, name)
                self._pushed[name] = when

    def provenance(self) -> dict[str, Any] | None:
        """What made the student that is there; None if there is none.

        Raises:
            UserError: If its folder holds something else.
        """
        names = [name for name in self.store.tree() if name.startswith("student/")]
        if not names:
            return None
        try:
            content = json.loads(self.store.get("student/provenance.json"))
        except (UserError, ValueError):
            content = None
        if not isinstance(content, dict):
            where = self.store.where("student")
            raise UserError(f"{where} is in use by something else: choose another folder")
        return content
