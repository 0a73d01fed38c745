"""A network out of this house: a folder that diffusers opens without code of ours."""

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

from pipeline.errors import UserError
from pipeline.models.adapters import Network

PROVENANCE = "provenance.json"
"""What made the network in a folder."""


def save_denoiser(denoiser: Network, folder: str | Path, provenance: dict[str, object]) -> None:
    """Write a network as a diffusers pipeline folder, whole or not at all.

    `DiffusionPipeline.from_pretrained(folder)` opens it; with `num_inference_steps=1` its image
    is the student's. `pipeline.models.build.load_denoiser` reads it back. The folder of a
    `SongUNet` opens only where this package is installed.

    Args:
        denoiser: A network of `pipeline.models.build`.
        folder: Target; an older folder there is replaced once the new one is complete.
        provenance: What made it (config, seed, step), stored as `provenance.json`.

    Raises:
        UserError: If the folder cannot be written.
    """
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f"{fresh.name}.old")
    try:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        denoiser.pipeline().save_pretrained(fresh)
        (fresh / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        if folder.is_dir():
            folder.rename(old)
        fresh.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {folder}: {reason}") from error
    shutil.rmtree(old, ignore_errors=True)


def read_provenance(folder: str | Path) -> dict[str, object] | None:
    """What made the network in a folder of `save_denoiser`; None if there is none.

    Raises:
        UserError: If the folder holds files, but no such record.
    """
    folder = Path(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        content = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{folder} is in use by something else: choose another folder")
    return content
