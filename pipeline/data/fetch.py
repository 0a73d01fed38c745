"""Folders in a bucket or on the Hub: copied here once, by whichever process is first; and there."""

import hashlib
import json
from pathlib import Path

from filelock import FileLock

from pipeline.config import Config, S3Config
from pipeline.data import hub
from pipeline.data.prompts import local_prompts
from pipeline.data.storage import Storage, Store
from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import CACHE_WAY_OUT, cache_folder
from pipeline.utils.uris import is_remote

INPUTS = {"teacher": "output", "data": "folder", "evaluate": "student"}
"""Group of settings -> its field that names an input folder."""
INCOMPLETE = "INCOMPLETE"
"""Object in a folder of which not all is there yet."""


def fetch_inputs(config: Config, *branches: str) -> Config:
    """The same settings, with a local copy in place of input folders elsewhere, and of prompts.

    Every process that reads them calls this for itself; a remote folder that has changed is
    another copy. What killed processes have left among copies and temporary files goes first.

    Args:
        config: The settings.
        branches: Which inputs: "teacher" (its output), "data" (folder), "evaluate" (student).

    Raises:
        UserError: If the store refuses, a folder is empty, or it cannot be written here.
    """
    scratch.sweep(cache_folder())
    scratch.sweep_temporary()
    for branch in branches:
        group, field = getattr(config, branch), INPUTS[branch]
        if is_remote(url := getattr(group, field) or ""):
            local = str(fetch(url, config.s3, f"{branch}.{field}"))
            config = config.model_copy(update={branch: group.model_copy(update={field: local})})
    teacher = local_prompts(config.teacher, config.s3)
    return config if teacher is config.teacher else config.model_copy(update={"teacher": teacher})


def store_folder(folder: Path, store: Store) -> None:
    """Put a local folder in the place of all that a store has; till it is whole `fetch` refuses it.

    Raises:
        UserError: If the store refuses.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    new = {path.relative_to(folder).as_posix(): path for path in files}
    store.put(INCOMPLETE, b"")
    for name, path in sorted(new.items()):
        store.upload(path, name)
    for name in store.tree().keys() - new.keys() - {INCOMPLETE}:
        store.delete(name)
    store.delete(INCOMPLETE)


def fetch(url: str, credentials: S3Config, setting: str) -> Path:
    """The local copy of a folder in a bucket, or of a model on the Hub; a local folder as it is.

    Args:
        url: A local folder, hf://owner/name@commit, or as a `Storage` takes it.
        credentials: What reaches the bucket.
        setting: Name of the setting, for messages.

    Raises:
        UserError: As `fetch_inputs` and `fetch_model`, or if an object's name would leave the
            copy.
    """
    if hub.is_model(url):
        return hub.fetch_model(url, setting)
    store = Storage(url, credentials, setting)
    if store.folder:
        return store.folder
    objects, where = store.tree(), store.uri()
    if not objects:
        raise UserError(f"{setting}: there is nothing in {where}")
    if INCOMPLETE in objects:
        raise UserError(
            f"{setting}: {where} is not complete: the job that saves it is at work, or was "
            "stopped; run that job again"
        )
    for name in objects:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise UserError(f"{setting}: {where}{name} is no name of a file; remove it")
    content = json.dumps([where, credentials.endpoint, objects], sort_keys=True).encode()
    copy = cache_folder() / hashlib.sha256(content).hexdigest()[:32]
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy}.lock"):
            if not copy.is_dir():
                with scratch.folder_beside(copy) as fresh:
                    for name in objects:
                        store.download(name, fresh / name)
                    if store.tree() != objects:
                        raise UserError(f"{setting}: {where} has changed meanwhile; run again")
                    fresh.rename(copy)
    except OSError as error:
        raise UserError(
            f"{setting}: cannot write the copy of {where} to {copy}: {error.strerror}; "
            f"{CACHE_WAY_OUT}"
        ) from error
    return copy
