"""NVIDIA's EDM networks as ours: ADM is a `UNet2DModel`, DDPM++ a `SongUNet`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from pipeline.diffusion.noise import EDM
from pipeline.models.edm_file import Module, read_edm
from pipeline.models.families.edm import EDMUNet
from pipeline.models.families.song import Song
from pipeline.models.song_unet import SongUNet
from pipeline.utils.errors import UserError

Weights = dict[str, Tensor]


def import_edm(file: str | Path) -> EDMUNet:
    """The network of an EDM file in float32, without dropout and labels of augmentation.

    Its noise is that of EDM's own sampler, 0.002 to 80, within the limits that the file may have.

    Args:
        file: A local file, such as `edm-imagenet-64x64-cond-adm.pkl`.

    Raises:
        UserError: As `read_edm`, or if its network is not one of the two, as NVIDIA built them.
    """
    try:
        root = read_edm(Path(file))
        if root.kind != "EDMPrecond":
            raise UserError(f"it holds a {root.kind}; known is EDMPrecond")
        network = root.parts["model"]
        if network.kind not in _BUILDERS:
            raise UserError(f"its network is a {network.kind}; known are {', '.join(_BUILDERS)}")
        _check(network)
        family, build = _BUILDERS[network.kind]
        unet = build(network, root.settings)
        return family(unet, _noise(root.settings), "edm")
    except UserError as error:
        raise UserError(f"teacher.file: {file}: {error}") from error
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"teacher.file: {file}: its network is not built as NVIDIA's are: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _noise(settings: Mapping[str, Any]) -> EDM:
    """EDM's noise, cut as NVIDIA's sampler does; limits of 0 and infinity are none."""
    own = EDM(sigma_data=settings["sigma_data"])
    limits = settings.get("sigma_min", 0.0), settings.get("sigma_max", math.inf)
    low, high = max(limits[0], own.sigma_min), min(limits[1], own.sigma_max)
    if not low < high:
        raise UserError(
            f"its sigma_min and sigma_max are {limits[0]:g} and {limits[1]:g}; known are limits "
            f"that leave a part of {own.sigma_min:g} to {own.sigma_max:g}"
        )
    return replace(own, sigma_min=float(low), sigma_max=float(high))


_COMMON: dict[str, dict[str, Any]] = {
    "Conv2d": {"fused_resample": False},
    "Linear": {},
    "ModuleDict": {},
}
_BUILT: dict[str, dict[str, dict[str, Any]]] = {
    "DhariwalUNet": {
        **_COMMON,
        "DhariwalUNet": {},
        "GroupNorm": {"eps": 1e-5},
        "PositionalEmbedding": {"max_positions": 10000, "endpoint": False},
        "UNetBlock": {"adaptive_scale": True, "skip_scale": 1},
    },
    "SongUNet": {
        **_COMMON,
        "SongUNet": {},
        "GroupNorm": {"eps": 1e-6},
        "PositionalEmbedding": {"max_positions": 10000, "endpoint": True},
        "UNetBlock": {"adaptive_scale": False, "skip_scale": math.sqrt(0.5)},
    },
}
"""Network -> the modules it may have -> what they must be set to."""
_PARTS = {
    "map_noise",
    "map_label",
    "map_augment",
    "map_layer0",
    "map_layer1",
    "enc",
    "dec",
    "out_norm",
    "out_conv",
}
_STEP = re.compile(r"(\d+)x\1_(conv|down|up|in[01]|block\d+|aux_norm|aux_conv)")


def _check(network: Module) -> None:
    """Refuse by name what the networks here would compute otherwise."""
    built, kind = _BUILT[network.kind], network.kind
    if strange := network.parts.keys() - _PARTS:
        raise UserError(f"its {kind} has {', '.join(sorted(strange))}, which is not known")
    for step in (*network.parts["enc"].parts, *network.parts["dec"].parts):
        if not _STEP.fullmatch(step):
            raise UserError(
                f"its {kind} has {step}, which is not known: of NVIDIA's networks ADM and DDPM++ "
                "(vp) are read, NCSN++ (ve) is not"
            )
    for name, module in network.walk("model"):
        if module.kind not in built:
            raise UserError(f"its {name} is a {module.kind}; a {kind} with it is not known")
        for setting, value in built[module.kind].items():
            _agree(f"{name}.{setting}", module.settings[setting], value)
        if module.kind == "GroupNorm":
            _check_groups(name, module, kind)
        if (heads := module.settings.get("num_heads")) and "qkv" in module.parts:
            channels = len(module.parts["proj"].tensors["weight"])
            _agree(f"{name}.num_heads", heads, 1 if kind == "SongUNet" else channels // 64)
        kernel = module.tensors.get("resample_filter")
        if kernel is not None and not torch.equal(kernel, torch.full_like(kernel, 0.25)):
            raise UserError(f"its {name} resamples by another filter than the mean of 2x2 pixels")


def _agree(name: str, value: Any, known: Any) -> None:
    if not math.isclose(value, known, rel_tol=1e-6):
        raise UserError(f"its {name} is {value}; known is {known}")


def _check_groups(name: str, norm: Module, kind: str) -> None:
    channels = len(norm.tensors["weight"])
    if kind == "DhariwalUNet" and channels < 128:
        raise UserError(
            f"its {name} has {channels} channels; an ADM is known from 128 up, where every norm "
            "has 32 groups"
        )
    _agree(f"{name}.num_groups", norm.settings["num_groups"], min(32, channels // 4))


def _levels(steps: Mapping[str, Module]) -> dict[str, list[Module]]:
    """Height of each level, as the names have it -> its blocks, without those that resample."""
    levels: dict[str, list[Module]] = {}
    for step, module in steps.items():
        blocks = levels.setdefault(step.partition("_")[0], [])
        if "_block" in step:
            blocks.append(module)
    return levels


def _shape(network: Module, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[bool]]:
    """The arguments that both networks share, and whether each level attends."""
    levels = list(_levels(network.parts["enc"].parts).values())
    shared = {
        "sample_size": settings["img_resolution"],
        "in_channels": settings["img_channels"],
        "out_channels": settings["img_channels"],
        "block_out_channels": [len(blocks[0].parts["norm1"].tensors["bias"]) for blocks in levels],
        "layers_per_block": len(levels[0]),
        "time_embedding_dim": len(network.parts["map_layer0"].tensors["bias"]),
        "num_class_embeds": settings["label_dim"] or None,
    }
    return shared, ["qkv" in blocks[0].parts for blocks in levels]


def new_adm(shared: Mapping[str, Any], attends: Sequence[bool]) -> "diffusers.UNet2DModel":
    """An ADM with fresh weights.

    Args:
        shared: Arguments of `UNet2DModel` that tell its widths and depths.
        attends: Whether each level attends.
    """
    return diffusers.UNet2DModel(
        **shared,
        down_block_types=[
            "AttnDownBlock2D" if here else "ResnetDownsampleBlock2D" for here in attends
        ],
        up_block_types=[
            "AttnUpBlock2D" if here else "ResnetUpsampleBlock2D" for here in attends[::-1]
        ],
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=64,
        norm_num_groups=32,
        attn_norm_num_groups=32,
    )


def _adm(network: Module, settings: Mapping[str, Any]) -> "diffusers.UNet2DModel":
    unet = new_adm(*_shape(network, settings))
    weights = _ends(network, network.parts["out_norm"], network.parts["out_conv"])
    if "map_label" in network.parts:
        weights["class_embedding.weight"] = network.parts["map_label"].tensors["weight"].T
    for side, steps in (("down", network.parts["enc"].parts), ("up", network.parts["dec"].parts)):
        heights = list(_levels(steps))
        for step, block in steps.items():
            height, name = step.split("_")
            level = heights.index(height)
            if name == side:
                weights |= _block(block, f"{side}_blocks.{level - 1}.{side}samplers.0")
            elif name in ("in0", "in1"):
                weights |= _block(block, f"mid_block.resnets.{name[-1]}")
            elif name != "conv":
                number = name.removeprefix("block")
                weights |= _block(block, f"{side}_blocks.{level}.resnets.{number}")
    unet.load_state_dict(weights)
    return unet


def _ddpmpp(network: Module, settings: Mapping[str, Any]) -> SongUNet:
    shared, attends = _shape(network, settings)
    enc, dec = network.parts["enc"].parts, network.parts["dec"].parts
    last = list(_levels(dec))[-1]
    weights = _ends(network, dec[f"{last}_aux_norm"], dec[f"{last}_aux_conv"])
    unet = SongUNet(**shared, stem_channels=len(weights["conv_in.bias"]), attention=attends)
    if "map_label" in network.parts:
        label = network.parts["map_label"].tensors
        one = math.sqrt(settings["label_dim"])  # of the "one-hot" labels
        weights["class_embedding.weight"] = one * label["weight"].T + label["bias"]
    for name, steps in (("encoder", enc), ("decoder", dec)):
        blocks = [block for block in steps.values() if block.kind == "UNetBlock"]
        for number, block in enumerate(blocks):
            weights |= _block(block, f"{name}.{number}.resnet")
    unet.load_state_dict(weights)
    return unet


_BUILDERS = {"DhariwalUNet": (EDMUNet, _adm), "SongUNet": (Song, _ddpmpp)}


def _ends(network: Module, norm: Module, conv: Module) -> Weights:
    """The weights before and after the blocks, under diffusers' names."""
    enc = network.parts["enc"].parts
    named = {
        "time_embedding.linear_1": network.parts["map_layer0"],
        "time_embedding.linear_2": network.parts["map_layer1"],
        "conv_in": enc[f"{next(iter(_levels(enc)))}_conv"],
        "conv_norm_out": norm,
        "conv_out": conv,
    }
    return {
        f"{name}.{key}": tensor
        for name, part in named.items()
        for key, tensor in part.tensors.items()
    }


_RESNET = {
    "norm0": "norm1",
    "conv0": "conv1",
    "affine": "time_emb_proj",
    "norm1": "norm2",
    "conv1": "conv2",
    "skip": "conv_shortcut",
}
"""Part of a block in the file -> in diffusers' `ResnetBlock2D`."""


def _block(block: Module, resnet: str) -> Weights:
    """A block's weights under diffusers' names; 1x1 convolutions become linear layers.

    Args:
        block: The block.
        resnet: Name of its residual part; that of its attention follows from it.
    """
    weights = {
        f"{resnet}.{target}.{key}": tensor
        for part, target in _RESNET.items()
        if part in block.parts
        for key, tensor in block.parts[part].tensors.items()
        if key != "resample_filter"
    }
    if "qkv" not in block.parts:
        return weights
    attention, heads = resnet.replace("resnet", "attention"), block.settings["num_heads"]
    for key, tensor in block.parts["norm2"].tensors.items():
        weights[f"{attention}.group_norm.{key}"] = tensor
    for key, tensor in block.parts["proj"].tensors.items():
        weights[f"{attention}.to_out.0.{key}"] = tensor.squeeze()
    for key, tensor in block.parts["qkv"].tensors.items():
        rows = tensor.squeeze().unflatten(0, (heads, -1, 3))  # head, channel, which
        for which, name in enumerate(("to_q", "to_k", "to_v")):
            weights[f"{attention}.{name}.{key}"] = rows[:, :, which].flatten(0, 1)
    return weights
