"""LoRA (peft): a network that learns through small adapters beside its teacher's frozen weights."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import LoraConfig
from pipeline.diffusion import seeds
from pipeline.models.frozen import sharing_copy
from pipeline.models.network import Network
from pipeline.utils.errors import UserError

FILE = "pytorch_lora_weights.safetensors"
"""The name that `load_lora_weights` of diffusers looks for."""
SECOND = "pytorch_lora_weights_2.safetensors"
"""Of the second of two experts: diffusers loads it with `load_into_transformer_2`."""

_NAME = "default"


def adapted(teacher: Network, lora: LoraConfig, whose: str, seed: int) -> Network:
    """A copy of a frozen network with adapters to learn; all else are the network's own tensors.

    The second matrix of every adapter is zero: it begins as the teacher.

    Args:
        teacher: Frozen.
        lora: Rank, scale and place of the adapters.
        whose: "student" or "critic".
        seed: Of the adapters' first matrices, with `whose`.

    Raises:
        UserError: If peft is not installed, or the backbone has no such modules.

    Source: LoRA (Hu et al., 2021), arXiv 2106.09685, Section 4.1.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"distill.{whose}.lora needs the package peft on every node (extra `lora`): pip "
            "install peft"
        ) from error
    network = sharing_copy(teacher)
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.modules)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator("lora", seed, whose).initial_seed())
        try:
            peft.inject_adapter_in_model(settings, network.backbone, _NAME)
        except ValueError as error:
            modules, reason = ", ".join(lora.modules), str(error).partition(". ")[0]
            names = [f".{name}" for name, _ in network.backbone.named_modules()]
            usual = [e for e in LoraConfig().modules if any(n.endswith(f".{e}") for n in names)]
            raise UserError(
                f"distill.{whose}.lora.modules: {modules}: {reason}; this model has "
                f"{', '.join(usual)}"
            ) from error
    return network.eval()


def merged(network: Network) -> Network:
    """The same network with weights of its own, its adapters added to them and kept as `lora`.

    Without adapters it is the very one.
    """
    if not hasattr(network.backbone, "peft_config"):
        return network
    whole = copy.deepcopy(network)
    whole.lora = _weights(network)
    for name, layer in list(_layers(whole)):
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(whole.backbone.get_submodule(parent), child, layer.get_base_layer())
    del whole.backbone.peft_config
    return whole.requires_grad_(True)


def save_lora(network: Network, folder: Path) -> None:
    """Write what was merged into a network as `lora_files`, in diffusers' layout.

    Its alpha is its rank, as programs take it to be that know of no other.
    """
    assert network.lora is not None
    for file, begin in lora_files(network).items():
        weights = {
            f"{_component(network)}.{name.removeprefix(begin)}": value
            for name, value in network.lora.items()
            if name.startswith(begin)
        }
        save_file(weights, folder / file, {"format": "pt"})


def lora_files(network: Network) -> dict[str, str]:
    """Names of the files of a network's adapters -> how the names of these begin in its backbone.

    One file, or one for each of two experts.
    """
    begins = [f"{name}.".removeprefix(f"{network.part}.") for name in network.networks]
    return dict(zip((FILE, SECOND), begins, strict=False))


def _component(network: Network) -> str:
    """What diffusers takes adapters to be of, in whichever file."""
    return next(iter(network.networks)).rpartition(".")[2]


@torch.no_grad()
def load_lora(network: Network, folder: Path) -> None:
    """Put what `save_lora` left in a folder into a network with adapters.

    Raises:
        RuntimeError: If the file cannot be read or has other adapters.
    """
    stored = {
        f"{begin}{name.removeprefix(f'{_component(network)}.')}": value
        for file, begin in lora_files(network).items()
        for name, value in _read(folder / file).items()
    }
    shapes = [
        {name: value.shape for name, value in each.items()} for each in (stored, _weights(network))
    ]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"{folder} has other adapters ({' and '.join(lora_files(network))})")
    for name, layer in _layers(network):
        first, second = (stored[f"{name}.lora_{each}.weight"] for each in "AB")
        layer.lora_A[_NAME].weight.copy_(first)
        layer.lora_B[_NAME].weight.copy_(second / layer.scaling[_NAME])


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise RuntimeError(f"cannot read {file}: {error}") from error


def _weights(network: Network) -> dict[str, Tensor]:
    """The adapters under diffusers' names, the scale of each in its second matrix."""
    weights = {}
    for name, layer in _layers(network):
        first, second = (matrix[_NAME].weight.detach() for matrix in (layer.lora_A, layer.lora_B))
        weights[f"{name}.lora_A.weight"] = first.clone()
        weights[f"{name}.lora_B.weight"] = second * layer.scaling[_NAME]
    return weights


def _layers(network: Network) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, layer in network.backbone.named_modules():
        if isinstance(layer, LoraLayer):
            yield name, layer
