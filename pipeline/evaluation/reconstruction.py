"""How well images come back from latents, beside what a linear map would do."""

import torch
from torch import Tensor
from torch.nn import functional

_RANGE = 2.0
"""From -1 to 1."""
_FITTED = 100_000
"""Patches that the linear map is found from."""


def mean_psnr(images: Tensor, originals: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, (N, C, H, W) in [-1, 1]."""
    errors = (images - originals).square().flatten(1).mean(1)
    return float((10 * torch.log10(_RANGE**2 / errors.clamp(min=1e-10))).mean())


def pca_psnr(images: Tensor, others: Tensor, side: int, components: int) -> float:
    """The same of others, put back from the principal components of their patches.

    As many numbers are kept as a VAE of this factor and these channels keeps.

    Args:
        images: That the components are found from, (N, C, H, W).
        others: That are put back, (M, C, H, W).
        side: Of a patch, in pixels.
        components: Kept of each patch.
    """
    patches = _patches(images, side).flatten(0, 1)
    patches = patches[:: max(1, len(patches) // _FITTED)]
    mean = patches.mean(0)
    _, _, axes = torch.linalg.svd(patches - mean, full_matrices=False)
    kept = axes[:components]
    found = (_patches(others, side) - mean) @ kept.T @ kept + mean
    back = functional.fold(found.transpose(1, 2), others.shape[-2:], side, stride=side)
    return mean_psnr(back.clamp(-1, 1), others)


def _patches(images: Tensor, side: int) -> Tensor:
    """(N, patches, values)."""
    return functional.unfold(images, side, stride=side).transpose(1, 2)
