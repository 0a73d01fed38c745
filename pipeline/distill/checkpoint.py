"""The state of a training run in one file: written and read here alone."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.ema import ema_of
from pipeline.errors import UserError

FILE = "state.pt"


def save(folder: Path, step: int, fingerprint: str, state: dict[str, Any]) -> None:
    """Write everything that the steps after `step` depend on.

    Args:
        folder: An existing empty folder.
        step: Number of steps done.
        fingerprint: Of the settings that define the run.
        state: What has a `state_dict`: networks, their average, optimisers, by name.

    Raises:
        UserError: If the file cannot be written.
    """
    content = {name: each.state_dict() for name, each in state.items()}
    try:
        torch.save({"step": step, "fingerprint": fingerprint, **content}, folder / FILE)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write a checkpoint to {folder}: {error}; free space") from error


def load(folder: Path, fingerprint: str, state: dict[str, Any]) -> int:
    """Restore in place what `save` wrote; returns the number of steps done.

    Raises:
        UserError: If the file cannot be read, or belongs to a run with other settings.
    """
    content = _read(folder)
    if content["fingerprint"] != fingerprint:
        raise UserError(
            f"distill.output: {folder} holds a run with other settings; "
            "choose another folder, or remove it"
        )
    for name, each in state.items():
        each.load_state_dict(content[name])
    return int(content["step"])


def load_student(folder: Path, student: nn.Module) -> int:
    """Put the averaged weights into a bare student; returns the number of steps done.

    Raises:
        UserError: If the file cannot be read.
    """
    content = _read(folder)
    average = ema_of(student, 0.0)
    average.load_state_dict(content["ema"])
    student.load_state_dict(average.module.state_dict())
    return int(content["step"])


def _read(folder: Path) -> dict[str, Any]:
    """Tensors and plain values only: code in the file is never run."""
    try:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"cannot read the checkpoint {folder}: {error}") from error
    assert isinstance(content, dict)
    return content
