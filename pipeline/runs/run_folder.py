"""The folder of a run: a local one, or one on S3 with files on their way there."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.config import Config, S3Config
from pipeline.data.store import open_store
from pipeline.models.export.save import PROVENANCE, AddFiles, save_denoiser
from pipeline.models.network import Network
from pipeline.utils.errors import UserError

log = logging.getLogger(__name__)

Made = dict[str, Any]
"""Provenance of a student: all that defines its run, and which of the run's students it is."""


class RunFolder:
    """What a run leaves beside its checkpoints: figures and pictures.

    Args:
        config: Of the run.

    Attributes:
        store: Where it is kept.
        folder: Where this process writes; for S3 a temporary one, which `upload` copies there.
    """

    def __init__(self, config: Config) -> None:
        where = config.distill.output
        self.store = open_store(where, config.s3, "distill.output")
        self._scratch = TemporaryDirectory() if "://" in where else None
        self.folder = Path(self._scratch.name if self._scratch else where)
        self._uploaded: dict[str, int] = {}

    def download(self, *names: str) -> None:
        """Bring files that an earlier attempt left on S3, those that are there."""
        for name in names if self._scratch else ():
            if name in self.store.list():
                self.store.download(name, self.folder / name)

    def upload(self) -> None:
        """Store the files that are new or changed since the last call.

        Raises:
            UserError: If the store refuses.
        """
        if self._scratch is None:
            return
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
        for name, path in sorted(found.items()):
            if path.is_file() and self._uploaded.get(name) != (when := path.stat().st_mtime_ns):
                self.store.upload(path, name)
                self._uploaded[name] = when

    def try_upload(self) -> None:
        """As `upload`; what cannot be stored now is told and stored with the next call."""
        try:
            self.upload()
        except UserError as error:
            log.warning("%s: tried again later", error)


def save_student(
    student: Network,
    where: str,
    s3: S3Config,
    setting: str,
    made: Made,
    add_files: AddFiles = lambda folder: None,
) -> None:
    """Save a student as a folder that diffusers opens, local or on S3; an older one is replaced.

    Args:
        student: The network.
        where: Its folder, local or in a bucket.
        s3: How to reach S3.
        setting: The setting that names the folder, for errors.
        made: What made it, stored last.
        dress: Adds files, as in `save_denoiser`.

    Raises:
        UserError: If it cannot be written.
    """
    if "://" not in where:
        save_denoiser(student, where, made, add_files)
        return
    store = open_store(where, s3, setting)
    store.delete(PROVENANCE)  # an older student's, while the new one's files come
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "student"
        save_denoiser(student, folder, made, add_files)
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name == PROVENANCE, path)):
            store.upload(path, path.relative_to(folder).as_posix())


def provenance(where: str, s3: S3Config, setting: str) -> Made | None:
    """What made the student that is there; None if there is none.

    Raises:
        UserError: If the folder holds something else.
    """
    store = open_store(where, s3, setting)
    names = store.tree()
    if not names:
        return None
    content = None
    if PROVENANCE in names:
        try:
            content = json.loads(store.get(PROVENANCE))
        except ValueError:
            pass
    if not isinstance(content, dict):
        raise UserError(f"{setting}: {where} is in use by something else: choose another folder")
    return content
