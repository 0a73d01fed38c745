"""Figures of the public package `torch-fidelity`, for fixed features: `fidelity_reference.json`.

`torch-fidelity` imports torchvision, which has no place in this project's environment, so they were
made in one of its own, with torch's build for the CPU, from the root of this repository:

    python3.11 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 numpy scipy
    /tmp/reference/bin/pip install --no-deps torch-fidelity==0.4.0 torchvision==0.28.0 tqdm pillow
    PYTHONPATH=. /tmp/reference/bin/python tests/evaluation/fidelity_reference.py

Distances and neighbours are those of its own functions on features, with its defaults; only the
kernel distance is that of all features at once, where chance has no part. Compiled
operators of torchvision belong to another build of torch and do not load: two are declared, without
code, so that its import passes; nothing here calls them. The features follow from this project's
keyed noise by sums, products and maxima of single numbers: the same bytes everywhere.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion import seeds

FILE = Path(__file__).with_suffix(".json")
PACKAGES = ("torch", "torch-fidelity", "numpy", "scipy")


class Features(NamedTuple):
    """Two sets, (N, D) float32 each, and the SHA-256 of their bytes."""

    real: Tensor
    fake: Tensor
    sha256: str


def _drawn(seed: int, count: int, size: int) -> Tensor:
    """Features that lean on their neighbours, each with a spread of its own."""
    noise = seeds.noise(seed, torch.arange(count), (size + 1,))
    spread = (torch.arange(size) % 7 + 1) * 0.25
    return (noise[:, :size] + 0.5 * noise[:, 1:]) * spread


def _pair(real: Tensor, fake: Tensor) -> Features:
    digest = hashlib.sha256(real.numpy().tobytes() + fake.numpy().tobytes())
    return Features(real, fake, digest.hexdigest())


def features() -> dict[str, Features]:
    """The same twice, moved, without variety, of another shape, and of many numbers."""
    real, again = _drawn(1, 1500, 64), _drawn(2, 1500, 64)
    return {
        "alike": _pair(real, again),
        "moved": _pair(real, again + 0.25),
        "narrow": _pair(real, 0.5 * again),
        "rectified": _pair(real, again.clamp(min=0)),
        "wide": _pair(_drawn(3, 1200, 256), 1.25 * _drawn(4, 1200, 256)),
    }


def main() -> None:
    """Make the file."""
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = {}
    for name, pair in features().items():
        statistics = [fid_features_to_statistics(each) for each in (pair.fake, pair.real)]
        found[name] = {
            "sha256": pair.sha256,
            **fid_statistics_to_metric(*statistics, verbose=False),
            **kid_features_to_metric(
                pair.fake, pair.real, kid_subsets=1, kid_subset_size=len(pair.real), verbose=False
            ),
            **prc_features_to_metric(pair.fake, pair.real, verbose=False),
        }
    content = {
        "made with": {
            "python": platform.python_version(),
            **{each: version(each) for each in PACKAGES},
        },
        "features": found,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
