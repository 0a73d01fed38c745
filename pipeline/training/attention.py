"""Attention on the meta device as a GPU takes it: one kernel."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class OneKernel(TorchFunctionMode):
    """While it is entered, attention on the meta device is one kernel with a backward of one.

    PyTorch takes it step by step there, and would keep all scores for the backward pass; a GPU's
    kernels keep inputs, output and a number for each token and head, and compute the scores again.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is scaled_dot_product_attention:
            query: Tensor = args[0] if args else named["query"]
            if query.is_meta and query.ndim == 4:
                return _attention(*args, **named)
        return func(*args, **named)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As PyTorch's function of this name, whose arguments these are: (B, heads, tokens, D)."""
    if enable_gqa:
        shared = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    bias = None if attn_mask is None else attn_mask.to(query.dtype)  # kernels add it, as numbers
    output, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )
    return output
