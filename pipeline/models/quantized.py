"""Frozen linear layers in 8 or 4 bits a weight, that adapters learn beside and through."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pipeline.utils.errors import UserError

Module = TypeVar("Module", bound=nn.Module)

_BLOCK = 64
"""Weights that share a scale in NF4, as in QLoRA."""


class Format(NamedTuple):
    """How a matrix (out, in) is kept in fewer bits.

    Attributes:
        pack: The matrix -> its numbers, as integers, and their scales in float32.
        unpack: Both, its shape and the wanted dtype -> the matrix again, rounded.
    """

    pack: Callable[[Tensor], tuple[Tensor, Tensor]]
    unpack: Callable[[Tensor, Tensor, torch.Size, torch.dtype], Tensor]


def _pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.float().abs().amax(1, keepdim=True)
    scales = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scales).round().to(torch.int8), scales


def _unpack_int8(packed: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    whole = torch.empty(shape, dtype=dtype, device=packed.device)
    return torch.mul(packed, scales, out=whole)  # in one pass, without a copy in float32


def _pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    try:
        import bitsandbytes  # noqa: F401 (it adds to torch.ops)
    except ImportError as error:
        raise UserError(
            "distill.quantize: nf4 needs the package bitsandbytes on every node (extra `8bit`): "
            "pip install bitsandbytes, or use int8"
        ) from error
    packed, scales = torch.ops.bitsandbytes.quantize_4bit(weight, _BLOCK, "nf4", torch.uint8)
    return packed, scales


def _unpack_nf4(packed: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    whole: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        packed, scales, _BLOCK, "nf4", shape, dtype
    )
    return whole


FORMATS = {"int8": Format(_pack_int8, _unpack_int8), "nf4": Format(_pack_nf4, _unpack_nf4)}
"""By `distill.quantize`: rounded to 127ths of a row's largest weight; NormalFloat of 4 bits.

Source of NF4: QLoRA (Dettmers et al., 2023), arXiv 2305.14314, Section 3.
"""


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose matrix is kept in fewer bits, and made whole at every call.

    Args:
        frozen: What it is made of, on the device where it is rounded.
        format: How its matrix is kept.
    """

    scales: Tensor

    def __init__(self, frozen: nn.Linear, format: Format) -> None:
        super().__init__(frozen.in_features, frozen.out_features, bias=False, device="meta")
        packed, scales = format.pack(frozen.weight.detach())
        # A buffer, so that nobody who makes weights half as long takes its integers for numbers.
        del self.weight
        self.register_buffer("weight", packed)
        self.register_buffer("scales", scales)
        self.bias = frozen.bias
        self._unpack = format.unpack

    def whole(self, dtype: torch.dtype) -> Tensor:
        """Its matrix, (out, in)."""
        shape = torch.Size((self.out_features, self.in_features))
        return self._unpack(self.weight, self.scales, shape, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """As of a linear layer, (..., in) -> (..., out), in the dtype of the input or autocast."""
        kind = input.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        output: Tensor = _Product.apply(input, self)
        return output


class _Product(torch.autograd.Function):
    """Of an input and a matrix, which the backward pass makes whole again: it is not kept."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(input.dtype)
        return linear(input, layer.whole(input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.whole(gradient.dtype), None


def quantized(
    network: Module, format: Literal["int8", "nf4"] | None, device: torch.device
) -> Module:
    """The same network with all linear layers of its blocks in fewer bits; None: as it is.

    Blocks are what stands in lists of modules. What stands outside of them (embeddings of patches,
    time and text, the last projection), norms and convolutions keep their bits.

    Args:
        network: Frozen; it is changed.
        format: As `distill.quantize`.
        device: Where layers are rounded, one after another, and stay.

    Raises:
        UserError: If nf4 is asked for without bitsandbytes.
    """
    if format is None:
        return network
    blocks = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    parents = dict.fromkeys(inner for block in blocks for inner in block.modules())
    for parent in parents:
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:  # others, as in MultiheadAttention, are not called
                setattr(parent, name, QuantizedLinear(child.to(device), FORMATS[format]))
    return network
