"""Videos to look at: some frames side by side as one image, or all of them moving."""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

_FRAMES, _WIDE = 8, 1024
"""Of a strip, at most; pixels for its width."""
_LARGEST = 2**14 - 1
"""Pixels a side of a WebP."""


def strips(samples: Tensor) -> tuple[Tensor, int]:
    """Images as they are; of a video some frames side by side, made smaller if they are large.

    Args:
        samples: Images, (N, C, H, W), or videos, (N, C, F, H, W).

    Returns:
        (N, C, h, n w), and n, the number of frames, which is 1 for images.
    """
    if samples.ndim == 4:
        return samples, 1
    count, last = min(samples.shape[2], _FRAMES), samples.shape[2] - 1
    frames = samples[:, :, torch.linspace(0, last, count).round().long()].transpose(1, 2)
    smaller = -(-count * frames.shape[4] // _WIDE)
    if smaller > 1:
        frames = avg_pool2d(frames.flatten(0, 1), smaller).unflatten(0, frames.shape[:2])
    return frames.permute(0, 2, 3, 1, 4).flatten(3), count


def moving(pages: Sequence[Image.Image], milliseconds: int) -> bytes:
    """A WebP that shows pages one after another, again and again, each for so long.

    Pages that are too large for one are made smaller.
    """
    file, smaller = io.BytesIO(), -(-max(pages[0].size) // _LARGEST)
    first, *rest = pages if smaller == 1 else [page.reduce(smaller) for page in pages]
    first.save(
        file, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, quality=88
    )
    return file.getvalue()
