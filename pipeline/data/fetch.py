"""Inputs that lie on S3: copied to this machine once, by whichever process comes first."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from filelock import FileLock

from pipeline.config import Config, S3Config
from pipeline.data.store import open_s3
from pipeline.errors import UserError


def fetch_inputs(config: Config) -> Config:
    """The same settings, with a local copy in place of each input folder on S3.

    Inputs are `teacher.output`, `data.folder` and `evaluate.student`. Every process that reads
    them calls this for itself; a remote folder that has changed is another copy.

    Raises:
        UserError: If S3 refuses, a folder is empty, or it cannot be written here.
    """
    changed = config
    for branch, field in (("teacher", "output"), ("data", "folder"), ("evaluate", "student")):
        group = getattr(changed, branch)
        if "://" in (url := getattr(group, field) or ""):
            local = str(fetch(url, config.s3, f"{branch}.{field}"))
            changed = changed.model_copy(update={branch: group.model_copy(update={field: local})})
    return changed


def fetch(url: str, s3: S3Config, setting: str) -> Path:
    """The local copy of a folder on S3.

    Args:
        url: s3://bucket/prefix.
        s3: Where S3 is.
        setting: Name of the setting, for messages.

    Raises:
        UserError: As `fetch_inputs`.
    """
    store = open_s3(url, s3, setting)
    objects = store.tree()
    if not objects:
        raise UserError(f"{setting}: there is nothing in {store.where('')}")
    content = json.dumps([url, s3.endpoint, objects], sort_keys=True).encode()
    copy = cache_folder() / hashlib.sha256(content).hexdigest()[:32]
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{copy}.lock"):
            if not copy.is_dir():
                partial = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}.tmp")
                try:
                    for name in objects:
                        store.download(name, partial / name)
                    partial.rename(copy)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{setting}: cannot write the copy of {url} to {copy}: {error.strerror}; "
            "free space, or set XDG_CACHE_HOME to another folder"
        ) from error
    return copy


def cache_folder() -> Path:
    """Where the copies are: ray-dmd in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ray-dmd"
