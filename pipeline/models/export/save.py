"""A network out of this house: a folder that diffusers opens without code of ours."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import diffusers
import torch
from pydantic_core import from_json
from safetensors import SafetensorError

from pipeline.models.lora import save_lora
from pipeline.models.network import Network
from pipeline.utils import scratch
from pipeline.utils.errors import UserError

PROVENANCE = "provenance.json"
"""What made the network in a folder."""


Variant = Literal["fp16"]
AddFiles = Callable[[Path], None]
"""Adds files to a saved network's folder."""


def save_denoiser(
    denoiser: Network,
    folder: str | Path,
    provenance: dict[str, object],
    add_files: AddFiles = lambda folder: None,
) -> None:
    """Write a network as a diffusers pipeline folder, whole or not at all.

    `DiffusionPipeline.from_pretrained(folder)` opens it; called with its `call_settings` its images
    are the student's. `pipeline.models.loading.load_denoiser` reads it back. The folder of a
    `SongUNet` opens only where this package is installed. Adapters that were merged into the
    network stand beside it, for `load_lora_weights`.

    Args:
        denoiser: A network of `pipeline.models.loading`.
        folder: Target; an older folder there is replaced once the new one is complete.
        provenance: What made it (config, seed, step), stored as `provenance.json`.
        add_files: Called on the new folder before it gets its name.

    Raises:
        UserError: If the folder cannot be written.
    """
    with new_folder(folder, provenance) as fresh:
        denoiser.pipeline().save_pretrained(fresh)
        _forget_places(fresh)
        if denoiser.lora is not None:
            save_lora(denoiser, fresh)
        add_files(fresh)


@contextmanager
def new_folder(folder: str | Path, provenance: dict[str, object]) -> Iterator[Path]:
    """An empty folder beside a target, with a `provenance.json`; after the block it takes its name.

    Args:
        folder: Target; an older folder there is replaced once the new one is complete.
        provenance: As for `save_denoiser`.

    Raises:
        UserError: If the folder cannot be written; whatever the block raises, nothing remains.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch.folder_beside(folder) as fresh, scratch.folder_beside(folder) as old:
            (fresh / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
            yield fresh
            if folder.is_dir():
                folder.rename(old / folder.name)
            fresh.rename(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write {folder}: {reason}; free space or choose another folder"
        ) from error


def read_provenance(folder: str | Path) -> dict[str, object] | None:
    """What made the network in a folder of `save_denoiser`; None if there is none.

    Raises:
        UserError: If the folder holds files, but no such record.
    """
    folder = Path(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        content = from_json((folder / PROVENANCE).read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{folder} is in use by something else: choose another folder")
    return content


def add_variant(folder: Path, variant: Variant, left_out: Iterable[str] = ()) -> None:
    """Put half-precision weights beside the full ones, under the names that diffusers gives them.

    `from_pretrained(folder, variant="fp16", torch_dtype=torch.float16)` reads them.

    Args:
        folder: Of a student.
        variant: Its name.
        left_out: Parts of its pipeline that the folder does not have.
    """
    with scratch.folder_beside(folder) as fresh:
        half = diffusers.DiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float16, local_files_only=True, **dict.fromkeys(left_out)
        )
        half.save_pretrained(fresh, variant=variant)
        for file in fresh.glob(f"*/*.{variant}*"):
            file.rename(folder / file.relative_to(fresh))


def _forget_places(folder: Path) -> None:
    """Take out of a saved pipeline where on this machine its parts came from."""
    for file in (folder / "model_index.json", *folder.glob("*/config.json")):
        content = from_json(file.read_text())
        if content.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
