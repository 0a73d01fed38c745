"""LPIPS weights for tests: the layout of the real ones, a few channels wide."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

PLACES = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
"""Of the convolutions in the five slices of the package `lpips`."""


def narrow_state(width: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """What `lpips.LPIPS(net="vgg").state_dict()` would be if VGG16 had `width` channels."""
    rng, channels = torch.Generator().manual_seed(seed), 3
    state = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    for number, places in PLACES.items():
        for place in places:
            name = f"net.slice{number}.{place}"
            kernel = torch.randn(width, channels, 3, 3, generator=rng) / channels**0.5
            state |= {f"{name}.weight": kernel, f"{name}.bias": torch.full((width,), 0.1)}
            channels = width
        head = torch.rand(1, width, 1, 1, generator=rng)
        state[f"lin{number - 1}.model.1.weight"] = state[f"lins.{number - 1}.model.1.weight"] = head
    return state


def save_narrow(file: Path, seed: int = 0) -> Path:
    """Save them in safetensors."""
    save_file({name: value.clone() for name, value in narrow_state(seed=seed).items()}, file)
    return file
