"""Networks frozen in part: what is frozen is shared by copies, never averaged and never stored."""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def learnt(network: nn.Module) -> list[str]:
    """Names of the weights that learn."""
    return [name for name, weight in network.named_parameters() if weight.requires_grad]


def frozen(network: nn.Module) -> set[str]:
    """Names of the frozen weights, and of all buffers where there are some; else none."""
    weights = network.named_parameters(remove_duplicate=False)
    names = {name for name, weight in weights if not weight.requires_grad}
    return names | {name for name, _ in network.named_buffers()} if names else names


def sharing_copy(network: Module) -> Module:
    """A copy, modules and all, whose frozen tensors are those of the network, not copies of them.

    Each of the two can be called, wrapped, recomputed and differentiated as if it were alone.
    """
    names = frozen(network)
    tensors = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    return copy.deepcopy(network, {id(each): each for name, each in tensors if name in names})


def meta_copy(network: Module) -> Module:
    """A copy, modules and all, on the meta device: it takes no memory, and its calls no time."""
    memo: dict[int, Tensor] = {}
    for each in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(each, device="meta")
        learns = each.requires_grad
        memo[id(each)] = nn.Parameter(empty, learns) if isinstance(each, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


def load_learnt(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the weights that learn; of a network without frozen ones, its whole state.

    Raises:
        RuntimeError: If they are others, or of other shapes.
    """
    names = frozen(network)
    if known := sorted(names & weights.keys()):
        raise RuntimeError(f"these weights are frozen: {', '.join(known[:3])}")
    kept = {name: value for name, value in network.state_dict().items() if name in names}
    network.load_state_dict({**kept, **weights})
