"""Floating-point operations (FLOPs) of calls, counted on the meta device."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.training.attention import one_kernel


@dataclass(frozen=True)
class Passes:
    """FLOPs of one image through a network, or through a part of it.

    Attributes:
        forward: There.
        to_image: Back to the image alone, as through a network whose weights do not learn.
        to_weights: Back to the weights that learn: with adapters few, and the way there is long.

    With `distill.recompute` both ways back have what they compute again.
    """

    forward: int = 0
    to_image: int = 0
    to_weights: int = 0


def passes(
    call: Callable[[Tensor], Tensor],
    image: Tensor,
    to_image: float = True,
    to_weights: float = True,
) -> Passes:
    """Count what a call does with an image on the meta device, where nothing is computed.

    Args:
        call: Of an image, (1, C, H, W).
        image: Without gradient.
        to_image, to_weights: Whether that way back is counted; else it is 0.
    """
    image_back = weights_back = 0
    with torch.set_grad_enabled(bool(to_weights)):
        forward, output = counted(lambda: call(image))
        if to_weights:
            weights_back, _ = counted(output.sum().backward)
    if to_image:
        given = image.clone().requires_grad_()
        _, output = counted(lambda: call(given))
        image_back, _ = counted(lambda: torch.autograd.grad(output.sum(), given))
    return Passes(forward, image_back, weights_back)


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    """FLOPs of a call, and what it gives: products of matrices, convolutions, attention."""
    with _Counter() as counter, one_kernel():
        given = call()
    return counter.total, given


class _Counter(TorchDispatchMode):
    """Adds up what PyTorch's own formulas give of each operator, as its `FlopCounterMode` does.

    That also keeps account of modules, which takes several times as long as all else here. Blocks
    repeat: what an operator gives is found out once for each kind of what it is given, for most
    kernels of the meta device are Python.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, key = kwargs or {}, None
        with suppress(_OtherError):
            key = (func, _kind(args), _kind(tuple(named.items()))) if _is_pure(func) else None
        if key in _KNOWN:
            flops, made = _KNOWN[key]
            self.total += flops
            return made()
        given = func(*args, **named)
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **named, out_val=given) if count else 0
        self.total += flops
        if key is not None:
            with suppress(_OtherError):
                _KNOWN[key] = flops, _maker(given)
        return given


_KNOWN: dict[Any, tuple[int, Callable[[], Any]]] = {}
"""An operator and the kind of what it is given -> its FLOPs, and what makes the like of its own."""


class _OtherError(Exception):
    """Something is no plain tensor on the meta device: such a call stands by itself."""


@cache
def _is_pure(func: Any) -> bool:
    """Whether an operator gives new tensors, and changes none."""
    schema = func._schema
    return not schema.is_mutable and not any(each.alias_info for each in schema.returns)


def _kind(given: Any) -> Any:
    """All of an argument that matters to shapes and FLOPs, hashable."""
    if isinstance(given, Tensor):
        return _layout(given)
    if isinstance(given, list | tuple):
        return tuple(_kind(each) for each in given)
    return type(given), given


def _maker(like: Any) -> Callable[[], Any]:
    """What makes new tensors in place of some, in tuples and lists too."""
    if isinstance(like, Tensor):
        shape, stride, dtype = _layout(like)
        return partial(torch.empty_strided, shape, stride, dtype=dtype, device="meta")
    if isinstance(like, list | tuple):
        makers, kind = [_maker(each) for each in like], type(like)
        return lambda: kind(make() for make in makers)
    return lambda: like


def _layout(of: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    if type(of) not in (Tensor, Parameter) or not of.is_meta or of.is_complex():
        raise _OtherError
    return of.shape, of.stride(), of.dtype
