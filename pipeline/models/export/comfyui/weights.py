"""A student's weights and adapters in files that ComfyUI reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.comfyui import ComfyUI
from pipeline.models.network import Network

Weights = Mapping[str, Tensor]


def backbone_weights(network: Network, comfyui: ComfyUI, begin: str = "") -> dict[str, Tensor]:
    """Those of the backbone, or of a part of it, under the names that `UNETLoader` takes.

    Args:
        network: The student.
        comfyui: Of its family.
        begin: How the part's names begin.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in _of_part(network.backbone.state_dict(), begin).items():
        own, place = comfyui.own(name)
        parts.setdefault(own, {})[place] = _turned(value) if comfyui.swaps(name) else value
    return {own: _stacked([each[place] for place in sorted(each)]) for own, each in parts.items()}


def encoder_weights(encoder: Any) -> dict[str, Tensor]:
    """Those of a CLIP of transformers, all of them under `text_model`."""
    return {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": each
        for name, each in encoder.state_dict().items()
    }


def adapters(network: Network, comfyui: ComfyUI, begin: str = "") -> dict[str, Tensor] | None:
    """Adapters of the backbone, or of a part of it, under the names of ComfyUI's LoRA loaders.

    None where these take the names of the diffusers file as they are. Arguments as above.
    """
    assert network.lora is not None
    if comfyui.kohya:
        return _of_kohya(network.lora)
    if not comfyui.names:
        return None
    weights = _of_part(network.backbone.state_dict(), begin)
    return _own(_of_part(network.lora, begin), weights, comfyui)


def save(weights: Weights, file: Path, dtype: torch.dtype) -> None:
    """Write weights, all of one type."""
    save_file({k: v.to(dtype).contiguous() for k, v in weights.items()}, file, {"format": "pt"})


def _of_part(weights: Weights, begin: str) -> Weights:
    return {k.removeprefix(begin): v for k, v in weights.items() if k.startswith(begin)}


def _of_kohya(lora: Weights) -> dict[str, Tensor]:
    """Each adapter's two matrices and its alpha, which is its rank: the scale is in them."""
    named = {}
    for module, (first, second) in _pairs(lora).items():
        name = f"lora_unet_{module.replace('.', '_')}"
        named[f"{name}.lora_down.weight"], named[f"{name}.lora_up.weight"] = first, second
        named[f"{name}.alpha"] = torch.tensor(float(len(first)))
    return named


def _own(lora: Weights, weights: Weights, comfyui: ComfyUI) -> dict[str, Tensor]:
    """Adapters of modules that are one in ComfyUI become one, whose rank is the sum of theirs.

    Their first matrices stand one below the other, their second ones on a diagonal.
    """
    pairs, named = _pairs(lora), {}
    for own, modules in _fused(weights, comfyui).items():
        if pairs.keys().isdisjoint(modules):
            continue
        found = [pairs.get(each) or _nothing(weights[f"{each}.weight"]) for each in modules]
        seconds = [
            _turned(second) if comfyui.swaps(each) else second
            for each, (_, second) in zip(modules, found, strict=True)
        ]
        name = f"diffusion_model.{own}"
        named[f"{name}.lora_A.weight"] = _stacked([first for first, _ in found])
        named[f"{name}.lora_B.weight"] = (
            torch.block_diag(*seconds) if len(seconds) > 1 else seconds[0]
        )
    return named


def _pairs(lora: Weights) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> its adapter's first matrix (rank, in) and second one (out, rank)."""
    modules = dict.fromkeys(key.rpartition(".lora_")[0] for key in lora)
    return {
        each: (lora[f"{each}.lora_A.weight"], lora[f"{each}.lora_B.weight"]) for each in modules
    }


def _fused(weights: Weights, comfyui: ComfyUI) -> dict[str, list[str]]:
    """ComfyUI's modules -> those of diffusers that they are, in the order of their rows."""
    fused: dict[str, list[tuple[int, str]]] = {}
    for name in weights:
        module, _, kind = name.rpartition(".")
        if kind == "weight":
            own, place = comfyui.own(module)
            fused.setdefault(own, []).append((place, module))
    return {own: [module for _, module in sorted(each)] for own, each in fused.items()}


def _nothing(weight: Tensor) -> tuple[Tensor, Tensor]:
    """An adapter of rank 0."""
    return weight[:0], weight[:, :0]


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _turned(value: Tensor) -> Tensor:
    """The second half of the rows before the first."""
    return torch.cat(value.chunk(2)[::-1])
