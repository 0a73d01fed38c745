"""Views of a network: the same weights, some of its parts replaced for one call."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from pipeline.models.compilation import compile_module, computes_again, is_compiled

Module = TypeVar("Module", bound=nn.Module)


def view(network: Module, parts: Mapping[str, nn.Module]) -> Module:
    """A shallow copy of a network in which some modules are others.

    All else, weights and wrappers' hooks included, is shared with the network, which stays as it
    is. To make one costs microseconds, so it is made where it is called. Of a compiled module it
    is compiled too.

    Args:
        network: Any module.
        parts: Name of a module, as in `named_modules` -> what stands there in the view.
    """
    children = dict(network._modules)
    nested: dict[str, dict[str, nn.Module]] = {}
    for name, module in parts.items():
        child, _, rest = name.partition(".")
        if rest:
            nested.setdefault(child, {})[rest] = module
        else:
            children[child] = module
    for child, inner in nested.items():
        children[child] = view(network.get_submodule(child), inner)
    # Not `copy.copy`, which calls the constructor of a sharded module. PyTorch has no public way
    # to give a module other children without changing the module itself.
    made = object.__new__(type(network))
    made.__dict__.update({**vars(network), "_modules": children})
    if is_compiled(network):  # which calls the network's own parts
        compile_module(made, computes_again(network))
    return made


class Wrapper(nn.Module):
    """Stands in a view for a module, and has its attributes.

    Args:
        inner: The module.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """What the wrapper itself has not is the module's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class Tap(Wrapper):
    """Notes what a module gives.

    Args:
        inner: The module.
        found: Gets its output at every call.
    """

    def __init__(self, inner: nn.Module, found: list[Any]) -> None:
        super().__init__(inner)
        self.found = found

    def forward(self, *args: Any, **named: Any) -> Any:
        """Call the module."""
        output = self.inner(*args, **named)
        self.found.append(output)
        return output


class Shifted(Wrapper):
    """Adds a vector to what a module gives.

    Args:
        inner: The module, whose output is (B, D).
        vector: (D,), with gradient.
    """

    def __init__(self, inner: nn.Module, vector: Tensor) -> None:
        super().__init__(inner)
        self.vector = vector

    def forward(self, *args: Any, **named: Any) -> Tensor:
        """Call the module."""
        output: Tensor = self.inner(*args, **named)
        return output + self.vector.to(output.dtype)
