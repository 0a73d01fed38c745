"""Parts of a network that want all of their bits."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast on a device; the meta device, where nothing is computed, knows none."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
