"""The folder of a run: a local one, or one in a bucket with files on their way there."""

import logging
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.data.fetch import INCOMPLETE, store_folder
from pipeline.data.storage import Storage
from pipeline.models.export.save import PROVENANCE, AddFiles, save_denoiser
from pipeline.models.network import Network
from pipeline.utils import scratch
from pipeline.utils.errors import UserError

log = logging.getLogger(__name__)

RUN, SETTINGS, STATE = "run.json", "config.yaml", "state.json"
"""What defines the run; all its settings; the SHA-256 of its state, once it has ended."""

Provenance = dict[str, Any]
"""What made a student: all that defines its run, and which of the run's students it is."""
_OF_STUDENTS = {"steps", "distill"}
"""In the provenance of every student, and of nothing else that is saved."""


class RunFolder:
    """What a run leaves beside its checkpoints: figures and pictures.

    Args:
        storage: Where it is kept.

    Attributes:
        folder: Where this process writes: of a bucket a temporary one, which `upload` copies
            there.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._local = storage.folder is not None
        self.folder = storage.folder or self._held_folder()
        self._uploaded: dict[str, int] = {}

    def _held_folder(self) -> Path:
        """A temporary folder, as long as this object is there."""
        stack = ExitStack()
        weakref.finalize(self, stack.close)
        return stack.enter_context(scratch.temporary_folder())

    def download(self, *names: str) -> None:
        """Bring files that an earlier attempt left in a bucket, those that are there."""
        for name in () if self._local else names:
            folder, _, file = name.rpartition("/")
            store = self.storage / folder if folder else self.storage
            if file in store.list():
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
                store.download(file, self.folder / name)

    def upload(self) -> None:
        """Store the files that are new or changed since the last call.

        Raises:
            UserError: If the store refuses.
        """
        if self._local:
            return
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
        for name, path in sorted(found.items()):
            if path.is_file() and self._uploaded.get(name) != (when := path.stat().st_mtime_ns):
                self.storage.upload(path, name)
                self._uploaded[name] = when

    def try_upload(self, tries: int = 1) -> None:
        """As `upload`; what cannot be stored now is logged and stored with the next call.

        Args:
            tries: How often, a few seconds apart: where there is no next call.
        """
        for attempt in range(tries):
            time.sleep(2**attempt if attempt else 0)
            try:
                self.upload()
                return
            except UserError as error:
                log.warning("%s: tried again later", error)


def save_student(
    student: Network,
    storage: Storage,
    provenance: Provenance,
    add_files: AddFiles = lambda folder: None,
) -> None:
    """Save a student as a folder that diffusers opens, local or in a bucket; replaces an older one.

    Args:
        student: The network.
        storage: Its folder.
        provenance: What made it.
        add_files: Adds files, as in `save_denoiser`.

    Raises:
        UserError: If it cannot be written.
    """
    if storage.folder:
        save_denoiser(student, storage.folder, provenance, add_files)
        return
    with scratch.temporary_folder() as copy:
        folder = copy / "student"
        save_denoiser(student, folder, provenance, add_files)
        store_folder(folder, storage)


def stored_provenance(storage: Storage) -> Provenance | None:
    """What made the student that is there; None if there is none, or none that is complete.

    Raises:
        UserError: If the folder holds something else.
    """
    names = storage.tree()
    if not names or INCOMPLETE in names:
        return None
    content = None
    if PROVENANCE in names:
        try:
            content = from_json(storage.get(PROVENANCE))
        except ValueError:
            pass
    if not (isinstance(content, dict) and content.keys() >= _OF_STUDENTS):
        raise UserError(
            f"{storage.setting}: {storage.uri()} is in use by something else: choose another folder"
        )
    return content
