"""A network in training: what computes, the weights that learn, their optimiser."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.models.frozen import learnt


class Masters:
    """Weights in float32, of which a network computes with copies in bfloat16.

    Args:
        master: The network whose weights learn.
        computing: A copy of it, as `compute_in_half` leaves it.

    Source: Micikevicius et al., 2018, arXiv 1710.03740, Section 3.1.
    """

    def __init__(self, master: nn.Module, computing: nn.Module) -> None:
        names = learnt(master)
        self.weights, self.copies = (
            [weights[name] for name in names]
            for weights in (dict[str, Tensor](n.named_parameters()) for n in (master, computing))
        )
        self._copied = self._versions()

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the gradients of the copies to the weights, for an optimiser to change these."""
        self._copied = []  # a fused step is not counted
        into, grads = list[Tensor](), list[Tensor]()
        for weight, copy in zip(self.weights, self.copies, strict=True):
            if copy.grad is not None:
                weight.grad = torch.empty_like(weight)
                into.append(weight.grad)
                grads.append(copy.grad)
                copy.grad = None
        torch._foreach_copy_(into, grads)

    @torch.no_grad()
    def renew(self) -> None:
        """Give the weights' values to the copies, if they have changed since."""
        if (versions := self._versions()) != self._copied:
            torch._foreach_copy_(self.copies, self.weights)
            self._copied = versions

    def _versions(self) -> list[int]:
        """How often each weight was changed; PyTorch counts that."""
        return [weight._version for weight in self.weights]


@dataclass(frozen=True)
class Trained:
    """A network in training.

    Attributes:
        network: What computes: wrapped where several workers share its gradients.
        optimizer: Of the weights that learn.
        rate: Learning rate at a step, counted from 0.
        masters: The weights that learn, where the network computes with copies of them; None where
            they are its own.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    masters: Masters | None = None

    @property
    def bare(self) -> nn.Module:
        """What computes, without the wrapper."""
        bare: nn.Module = self.network
        return bare.module if isinstance(bare, DistributedDataParallel) else bare

    def update(self, step: int, clip: float, accelerator: Accelerator) -> Tensor:
        """Take an optimiser step by the gradients at hand, and let go of these.

        Without finite gradients the weights and the optimiser's state stay as they are. A fused
        optimiser sees to it on the device; for others it is waited until the norm is known.

        Args:
            step: Counted from 0.
            clip: Largest norm of the gradient.
            accelerator: Which brought the gradients together.

        Returns:
            The gradient's norm before it was clipped, (); the same on all workers.
        """
        if self.masters is not None:
            self.masters.take_gradients()
        weights = [each for group in self.optimizer.param_groups for each in group["params"]]
        norm = accelerator.clip_grad_norm_(weights, clip)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def renew(self) -> None:
        """Compute with the weights as they are now, whoever changed them."""
        if self.masters is not None:
            self.masters.renew()
