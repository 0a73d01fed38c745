"""Tensors on their way to a device, and threads that send them there."""

import torch
from torch import Tensor


def moved(value: Tensor, device: torch.device | str) -> Tensor:
    """The same values on a device.

    To a GPU they go from pinned memory, and nothing waits: what is computed with them on the same
    stream comes after them, and PyTorch lends out their pinned memory again once they are there.
    """
    device = torch.device(device)
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def choose(device: torch.device) -> None:
    """Make a GPU this thread's own; every thread begins with the first one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
