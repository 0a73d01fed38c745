"""Attention on the meta device as a GPU takes it: one kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_PLAIN = functional.scaled_dot_product_attention


@contextmanager
def one_kernel() -> Iterator[None]:
    """While the block runs, attention on the meta device is one kernel, and its backward another.

    PyTorch takes it step by step there, and would keep all scores for the backward pass; a GPU's
    kernels keep inputs, output and a number for each token and head, and compute the scores again.

    It stands in for PyTorch's function, since a `TorchFunctionMode` is suspended in the backward
    pass, where `distill.recompute` calls the function again.
    """
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


def _attention(query: Tensor, *args: Any, **named: Any) -> Tensor:
    """As PyTorch's; of (B, heads, tokens, D) on the meta device in one kernel."""
    if query.is_meta and query.ndim == 4:
        return _kernel(query, *args, **named)
    return _PLAIN(query, *args, **named)


def _kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Tensor:
    if more.get("enable_gqa"):
        shared = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    bias = None if attn_mask is None else attn_mask.to(query.dtype)  # kernels add it, as numbers
    output, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=more.get("scale")
    )
    return output
