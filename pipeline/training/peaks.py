"""What GPUs can do at most, from their makers' data sheets."""

import re
from typing import NamedTuple


class Peak(NamedTuple):
    """Of dense products of matrices, in TFLOP/s.

    Attributes:
        bf16: In bfloat16, added up in float32.
        tf32: In TF32, the fastest that a GPU takes float32 numbers.
    """

    bf16: float
    tf32: float


USUAL = 0.4
"""Share of its peak that a GPU reaches in training that is going well."""

PEAKS = {
    "A100": Peak(312, 156),
    "A800": Peak(312, 156),
    "A40": Peak(149.7, 74.8),
    "RTX A6000": Peak(154.8, 77.4),
    "H100 PCIe": Peak(756, 378),
    "H100 NVL": Peak(835, 417),
    "H100": Peak(989, 494),
    "H800": Peak(989, 494),
    "H200 NVL": Peak(835, 417),
    "H200": Peak(989, 494),
    "GH200": Peak(989, 494),
    "B200": Peak(2250, 1125),
    "GB200": Peak(2500, 1250),
    "L4": Peak(121, 60),
    "L40": Peak(181, 90.5),
    "L40S": Peak(362, 183),
    "RTX 6000 Ada": Peak(364, 182),
    "GeForce RTX 4090": Peak(165.2, 82.6),
    "GeForce RTX 3090": Peak(71, 35.6),
}
"""By what PyTorch calls them; the first of several that fit counts.

Source: NVIDIA's data sheets and white papers, half of what they give with sparsity; looked up on
2026-11-29.
"""

_OTHERS = re.compile(r"MIG|Laptop|Max-Q| Ti\b| D\b")
"""Marks of a part of a GPU, and of others of nearly the same name."""


def peak(device: str, precision: str) -> float | None:
    """TFLOP/s of a GPU at most, or None if it is not known.

    Args:
        device: What PyTorch calls it, such as "NVIDIA H100 80GB HBM3".
        precision: As `distill.precision`.
    """
    if _OTHERS.search(device):
        return None
    for name, found in PEAKS.items():
        if all(re.search(rf"(?<!\w){part}(?!\w)", device) for part in name.split()):
            return found.bf16 if precision == "bf16" else found.tf32
    return None
