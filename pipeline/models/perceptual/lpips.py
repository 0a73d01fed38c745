"""LPIPS: how far apart two images look, by the features of a VGG16."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.perceptual.lpips_weights import LEVELS, Weights
from pipeline.models.precision import full_precision

SIZE = 224
"""Height and width, in pixels, to which smaller images are enlarged."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation of each colour, for images in [-1, 1]."""


class LPIPS(nn.Module):
    """The distance of version 0.1 on VGG16, frozen, in float32 also under autocast.

    Args:
        weights: Of trunk and heads.

    Source: Zhang et al., 2018, arXiv 1801.03924, Eq. 1.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name, values in (
            ("kernel", weights.kernels),
            ("bias", weights.biases),
            ("head", weights.heads),
        ):
            for number, value in enumerate(values):
                self.register_buffer(f"{name}{number}", value)
        for name, colours in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(colours).view(1, 3, 1, 1))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distance of each image to its target; gradients flow to the images alone.

        Args:
            images: (B, 1 or 3, H, W) in about [-1, 1]. Grey ones become three equal colours; those
                smaller than `SIZE` are enlarged, as DMD does (arXiv 2311.18828).
            targets: Same shape.

        Returns:
            (B,), float32, at least 0.
        """
        with full_precision(images.device):
            with torch.no_grad():
                there = self._features(targets)
            here = self._features(images)
            levels = [
                F.conv2d((a - b) ** 2, self.get_buffer(f"head{level}")).mean((1, 2, 3))
                for level, (a, b) in enumerate(zip(here, there, strict=True))
            ]
        return torch.stack(levels).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Features of each level, of length 1 at every pixel."""
        x = (_enlarged(images.float()) - self.shift) / self.scale
        features, number = [], 0
        for level, convolutions in enumerate(LEVELS):
            if level:
                x = F.max_pool2d(x, 2)
            for _ in range(convolutions):
                kernel, bias = (self.get_buffer(f"{name}{number}") for name in ("kernel", "bias"))
                x = F.relu(F.conv2d(x, kernel, bias, padding=1))
                number += 1
            # the norm's gradient is 0 where all features are: that of a square root is not
            features.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return features


def _enlarged(images: Tensor) -> Tensor:
    shortest = min(images.shape[2:])
    if shortest < SIZE:
        size = [round(side * SIZE / shortest) for side in images.shape[2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1)
