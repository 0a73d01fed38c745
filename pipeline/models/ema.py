"""Exponential moving average of weights, on PyTorch's own AveragedModel."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.models.frozen import frozen, learnt, sharing_copy


@torch.no_grad()
def pull(weights: list[Tensor], toward: list[Tensor], share: float) -> None:
    """Move weights in place by a share, in [0, 1], of the way toward others of their shapes."""
    torch._foreach_lerp_(weights, toward, share)


class Average(AveragedModel):
    """A running average of the weights that learn; frozen ones are the model's own tensors.

    Attributes:
        shared: Names of what is the model's own, here.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(nn.Module())
        self.module = sharing_copy(model)
        self.shared = {f"module.{name}" for name in frozen(model)}
        self._learnt, self._decay = learnt(model), decay

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the model's weights; the first time they are copied."""
        mine, theirs = (
            [weights[name].detach() for name in self._learnt]
            for weights in (dict(each.named_parameters()) for each in (self.module, model))
        )
        if self.n_averaged == 0:
            for average, current in zip(mine, theirs, strict=True):
                average.copy_(current)
        else:
            n = int(self.n_averaged)
            decay = min(self._decay, (1 + n) / (10 + n))
            pull(mine, theirs, 1 - decay)
        self.n_averaged += 1


def ema_of(model: nn.Module, decay: float) -> Average:
    """A running average of the model's weights; `.module` is the averaged network.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the n updates so far, so that the
    first weights are soon forgotten.

    Args:
        model: The network to follow with `.update_parameters(model)`.
        decay: Share of the old average that a late update keeps, in [0, 1).
    """
    return Average(model, decay).requires_grad_(False).eval()
