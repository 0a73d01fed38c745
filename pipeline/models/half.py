"""Networks that compute in bfloat16."""

from collections.abc import Iterator

import torch
from torch import nn

from pipeline.models.network import Network

HALF = torch.bfloat16


def compute_in_half(network: nn.Module) -> None:
    """Bring a network's weights to bfloat16, in place, and tell it to compute in it.

    Those stay in float32 that diffusers keeps there when it loads such a model in bfloat16.
    """
    kept = {id(weight) for weight in _kept(network)}
    for weight in network.parameters():
        if weight.dtype == torch.float32 and id(weight) not in kept:
            weight.data = weight.data.to(HALF)
    tell_half(network)


def tell_half(network: nn.Module) -> None:
    """Tell a network, whose weights will be in bfloat16 when it is called, to compute in it."""
    for module in network.modules():
        if isinstance(module, Network):
            module.compute_dtype = HALF


def _kept(network: nn.Module) -> Iterator[nn.Parameter]:
    """Weights under a name that a model of diffusers keeps in float32."""
    for model in network.modules():
        names = set(getattr(model, "_keep_in_fp32_modules", None) or ())
        for name, weight in model.named_parameters() if names else ():
            if not names.isdisjoint(name.split(".")):
                yield weight
