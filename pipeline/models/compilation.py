"""Networks compiled in place: their names, states and copies stay as they are.

`torch.compile` around a module would put `_orig_mod` into the names of its weights, and share it
with copies; `Module.compile` does neither. A copy is not compiled.
"""

from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from pipeline.utils.fields import Compile

BACKEND = "inductor"
"""Of `torch.compile`."""
_GRAPHS = 1024
"""That a kind of block may have: one for each width, shape, and way to be called."""


def compile_network(network: nn.Module, how: Compile, recompute: bool | int = False) -> None:
    """Compile networks of diffusers when they are first called, in place, once for each shape.

    Sources: https://docs.pytorch.org/tutorials/recipes/regional_compilation.html and, of what the
    code of a block's backward pass computes again, https://pytorch.org/blog/activation-checkpointing-techniques

    Args:
        network: One, or what has some, on its device; what else is in it stays as it is.
        how: What of it.
        recompute: As `distill.recompute`. If all blocks are recomputed, compiled ones do it
            themselves, for less of the host's time.
    """
    if how == "auto":
        on_gpu = any(each.is_cuda for each in network.parameters())
        how = "blocks" if on_gpu else "none"
    if how == "none":
        return
    torch._dynamo.config.recompile_limit = _GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 4 * _GRAPHS
    for module in _models(network) if how == "whole" else blocks_of(network):
        compile_module(module, again=recompute == 1 and how == "blocks")


def compile_module(module: nn.Module, again: bool) -> None:
    """Compile a module when it is first called, in place, once for each shape.

    Args:
        module: Any.
        again: Whether its backward pass computes its activations again, and none is kept.
    """
    module.compile(backend=_computing_again if again else BACKEND, dynamic=False)
    module.computes_again = again  # type: ignore[assignment]


def _computing_again(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    with torch._functorch.config.patch(activation_memory_budget=0.0):
        compiled: Callable[..., Any] = torch._dynamo.lookup_backend(BACKEND)(graph, inputs)
    return compiled


def is_compiled(module: object) -> bool:
    """Whether `compile_module` was called on it."""
    return isinstance(module, nn.Module) and module._compiled_call_impl is not None


def computes_again(module: object) -> bool:
    """Whether it is compiled, and its backward pass computes its activations again."""
    return is_compiled(module) and bool(getattr(module, "computes_again", False))


def compiled_graphs() -> int:
    """Number of graphs that this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Of what has models of diffusers, the blocks that repeat.

    They are the members of the lists in what knows gradient checkpointing: the blocks of a
    transformer; of a UNet, whose own blocks hold such lists, the members of those.
    """
    return list(_blocks(network))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if not (_recomputes(module) and isinstance(child, nn.ModuleList)):
            yield from _blocks(child)
            continue
        for block in child.children():
            if any(map(_recomputes, block.modules())):
                yield from _blocks(block)
            else:
                yield block


def _models(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost models of diffusers."""
    for child in module.children():
        if isinstance(child, diffusers.ModelMixin):
            yield child
        else:
            yield from _models(child)


def _recomputes(module: nn.Module) -> bool:
    return hasattr(module, "gradient_checkpointing")
