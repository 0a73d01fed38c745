"""An EDM file in NVIDIA's layout, small and with random weights.

    python tests/edm_file.py --out FILE [--network ddpmpp]

The layout as published: a pickle of {"ema": module}, whose modules are rebuilt from a record of
class name, source and state, and whose other objects are torch's and numpy's own.
"""

import argparse
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

SOURCE = "raise SystemExit('the source in the file was run')"


class Persistent(nn.Module):
    """A module that is pickled as NVIDIA's are: class name, source and state."""

    def __init__(self, kind: str, **attributes: Any):
        super().__init__()
        self.kind = kind
        for name, value in attributes.items():
            if name == "resample_filter":
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def __reduce__(self) -> Any:
        ordered = ("_parameters", "_buffers", "_modules")
        state = {
            name: OrderedDict(value) if name in ordered else value
            for name, value in self.__dict__.items()
            if name != "kind"
        }
        state |= {"_init_args": (), "_init_kwargs": EasyDict(img_channels=3)}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": self.kind,
            "state": state,
        }
        return _reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("a function of the file was called")


class EasyDict(dict):
    """Stands for dnnlib's."""


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__ = "dnnlib.util"


def dump(content: Any, protocol: int = 4) -> bytes:
    """A pickle whose globals have NVIDIA's names."""
    modules = {name: ModuleType(name) for name in ("torch_utils", "dnnlib")}
    modules["torch_utils.persistence"] = ModuleType("torch_utils.persistence")
    modules["dnnlib.util"] = ModuleType("dnnlib.util")
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    modules["dnnlib.util"].EasyDict = EasyDict
    with patch.dict(sys.modules, modules):
        return pickle.dumps(content, protocol)


def weight(*shape: int) -> nn.Parameter:
    """Of a size that keeps variances."""
    return nn.Parameter(torch.randn(shape) / torch.Size(shape[1:]).numel() ** 0.5)


def bias(size: int) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(size))


def linear(inputs: int, outputs: int, with_bias: bool = True) -> Persistent:
    return Persistent(
        "Linear",
        in_features=inputs,
        out_features=outputs,
        weight=weight(outputs, inputs),
        bias=bias(outputs) if with_bias else None,
    )


def norm(channels: int, eps: float) -> Persistent:
    return Persistent(
        "GroupNorm",
        num_groups=min(32, channels // 4),
        eps=eps,
        weight=nn.Parameter(1 + 0.3 * torch.randn(channels)),
        bias=bias(channels),
    )


def conv(
    inputs: int, outputs: int, kernel: int, up: bool = False, down: bool = False
) -> Persistent:
    return Persistent(
        "Conv2d",
        in_channels=inputs,
        out_channels=outputs,
        up=up,
        down=down,
        fused_resample=False,
        weight=weight(outputs, inputs, kernel, kernel) if kernel else None,
        bias=bias(outputs) if kernel else None,
        resample_filter=torch.full((1, 1, 2, 2), 0.25) if up or down else None,
    )


class Maker:
    """The blocks of one family: "adm" or "ddpmpp"."""

    def __init__(self, family: str, embedding: int):
        self.adm, self.embedding = family == "adm", embedding
        self.eps = 1e-5 if self.adm else 1e-6

    def block(
        self, inputs: int, outputs: int, attends: bool = False, up: bool = False, down: bool = False
    ) -> Persistent:
        resampled = up or down
        heads = 0 if not attends else outputs // 64 if self.adm else 1
        parts = {
            "norm0": norm(inputs, self.eps),
            "conv0": conv(inputs, outputs, 3, up, down),
            "affine": linear(self.embedding, outputs * (2 if self.adm else 1)),
            "norm1": norm(outputs, self.eps),
            "conv1": conv(outputs, outputs, 3),
            "skip": None,
        }
        if resampled or inputs != outputs:
            kernel = 1 if inputs != outputs or not self.adm else 0
            parts["skip"] = conv(inputs, outputs, kernel, up, down)
        if heads:
            parts["norm2"] = norm(outputs, self.eps)
            parts["qkv"] = conv(outputs, 3 * outputs, 1)
            parts["proj"] = conv(outputs, outputs, 1)
        return Persistent(
            "UNetBlock",
            in_channels=inputs,
            out_channels=outputs,
            emb_channels=self.embedding,
            num_heads=heads,
            dropout=0.1,
            skip_scale=1 if self.adm else np.sqrt(0.5),
            adaptive_scale=self.adm,
            **parts,
        )


def network(
    family: str = "adm",
    size: int = 8,
    classes: int = 10,
    channels: int | None = None,
    mult: tuple[int, ...] = (1, 2),
    blocks: int | None = None,
    attention: tuple[int, ...] | None = None,
    augment: int = 9,
    seed: int = 0,
) -> Persistent:
    """A preconditioned network.

    Args:
        family: "adm" or "ddpmpp".
        size: Height and width, in pixels.
        classes: Number of classes; 0 for none.
        channels: Of the first level; by default 128 for ADM and 32 for DDPM++.
        mult: Channels of each level, in units of those.
        blocks: Of each level; by default 1 for ADM and 2 for DDPM++.
        attention: Sizes that attend; by default the smallest for ADM, the largest for DDPM++.
        augment: Length of the labels of augmentation; 0 for none.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    adm, last = family == "adm", len(mult) - 1
    channels = channels or (128 if adm else 32)
    blocks = blocks or (1 if adm else 2)
    attention = attention or ((size >> last,) if adm else (size,))
    make = Maker(family, 4 * channels)
    parts = {
        "map_noise": Persistent(
            "PositionalEmbedding", num_channels=channels, max_positions=10000, endpoint=not adm
        ),
        "map_layer0": linear(channels, 4 * channels),
        "map_layer1": linear(4 * channels, 4 * channels),
    }
    if augment:
        parts["map_augment"] = linear(augment, channels, with_bias=False)
    if classes:
        parts["map_label"] = linear(classes, 4 * channels if adm else channels, with_bias=not adm)
    enc = {f"{size}x{size}_conv": conv(3, channels, 3)}
    width, skips = channels, [channels]
    for level, factor in enumerate(mult):
        here = f"{size >> level}x{size >> level}"
        attends = size >> level in attention
        if level:
            enc[f"{here}_down"] = make.block(width, width, down=True)
            skips.append(width)
        for number in range(blocks):
            enc[f"{here}_block{number}"] = make.block(width, factor * channels, attends)
            width = factor * channels
            skips.append(width)
    dec = {}
    for level, factor in reversed(list(enumerate(mult))):
        here = f"{size >> level}x{size >> level}"
        attends = size >> level in attention
        if level == last:
            dec[f"{here}_in0"] = make.block(width, width, True)
            dec[f"{here}_in1"] = make.block(width, width)
        else:
            dec[f"{here}_up"] = make.block(width, width, up=True)
        for number in range(blocks + 1):
            dec[f"{here}_block{number}"] = make.block(
                width + skips.pop(), factor * channels, attends and (adm or number == blocks)
            )
            width = factor * channels
    out_norm, out_conv = norm(width, make.eps), conv(width, 3, 3)
    if adm:
        parts |= {"out_norm": out_norm, "out_conv": out_conv}
    else:
        dec |= {f"{here}_aux_norm": out_norm, f"{here}_aux_conv": out_conv}
    kind = "DhariwalUNet" if adm else "SongUNet"
    parts |= {"enc": nn.ModuleDict(enc), "dec": nn.ModuleDict(dec)}
    return Persistent(
        "EDMPrecond",
        img_resolution=size,
        img_channels=3,
        label_dim=classes,
        use_fp16=adm,
        sigma_min=0,
        sigma_max=float("inf"),
        sigma_data=0.5,
        model=Persistent(kind, label_dropout=0, **parts),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=("adm", "ddpmpp"), default="adm")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    made = network(given.network, seed=given.seed)
    given.out.write_bytes(dump({"ema": made.eval().requires_grad_(False)}))


if __name__ == "__main__":
    main()
