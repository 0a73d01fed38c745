"""Exponential moving average of weights, on PyTorch's own AveragedModel."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_of(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of the model's weights; `.module` is the averaged network.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the n updates so far, so that the
    first weights are soon forgotten.

    Args:
        model: The network to follow with `.update_parameters(model)`.
        decay: Share of the old average that a late update keeps, in [0, 1).
    """
    ema = AveragedModel(model, multi_avg_fn=_update(decay))
    return ema.requires_grad_(False).eval()


def _update(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    @torch.no_grad()
    def update(average: _Tensors, current: _Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(average, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update
