"""A network out of this house: a folder that diffusers opens without code of ours."""

import json
import os
import shutil
from pathlib import Path

from diffusers import ConsistencyModelPipeline, EDMEulerScheduler
from safetensors import SafetensorError

from pipeline.diffusion.noise import EDM
from pipeline.errors import UserError
from pipeline.models.adapters import UNet2D

PROVENANCE = "provenance.json"
"""What made the network in a folder."""


def save_denoiser(denoiser: UNet2D, folder: str | Path, provenance: dict[str, object]) -> None:
    """Write a UNet in EDM's preconditioning as a diffusers pipeline folder, whole or not at all.

    `DiffusionPipeline.from_pretrained(folder)` opens it; with `num_inference_steps=1` its image
    is the student's. `pipeline.models.build.load_denoiser` reads it back. The folder of a
    `SongUNet` opens only where this package is installed.

    Args:
        denoiser: A network of `build.new_unet`, `edm_import.import_edm`, or a copy of one.
        folder: Target; an older folder there is replaced once the new one is complete.
        provenance: What made it (config, seed, step), stored as `provenance.json`.

    Raises:
        UserError: If the folder cannot be written.
    """
    folder = Path(folder)
    schedule = denoiser.schedule
    assert isinstance(schedule, EDM) and denoiser.prediction == "edm"
    scheduler = EDMEulerScheduler(
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        sigma_data=schedule.sigma_data,
        rho=schedule.rho,
    )
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f"{fresh.name}.old")
    try:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        ConsistencyModelPipeline(denoiser.unet, scheduler).save_pretrained(fresh)
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
