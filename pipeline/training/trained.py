"""A network in training: what computes, the weights that learn, their optimiser."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from pipeline.config import DistillConfig
from pipeline.models.compilation import compile_network
from pipeline.models.frozen import learnt, sharing_copy
from pipeline.models.half import compute_in_half
from pipeline.utils.errors import UserError


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
    optimizer: Optimizer
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


def in_training(
    network: nn.Module,
    rate: Callable[[int], float],
    accelerator: Accelerator,
    distill: DistillConfig,
) -> Trained:
    """Make a network ready to learn, on this worker's device, sharded already or not.

    Args:
        network: Its weights that learn are in float32.
        rate: Learning rate at a step, counted from 0.
        accelerator: Of the workers.
        distill: The settings.

    Raises:
        UserError: If the optimiser's package is missing.
    """
    optimizer, masters = _optimizer(network, distill.optimizer), None
    if distill.sharded and dist.is_initialized():  # FSDP2 has the weights in float32 itself
        return Trained(network, optimizer, rate)
    if distill.precision == "bf16":
        master, network = network, sharing_copy(network)
        compute_in_half(network)
        masters = Masters(master, network)
    compile_network(network, distill.compile, distill.recompute)
    if accelerator.num_processes > 1:
        network = accelerator.prepare(network)
    return Trained(network, optimizer, rate, masters)


def student_rate(distill: DistillConfig) -> Callable[[int], float]:
    """The student's learning rate at a step, counted from 0.

    Half a cosine to zero over the regression phase, then constant; a linear warm-up at the
    start of both.
    """
    end, dmd = distill.regression_steps, distill.regression_steps + distill.burn_in_steps

    def rate(step: int) -> float:
        if step < end:
            decay = 0.5 * (1 + math.cos(math.pi * step / end))
            return distill.regression.lr * decay * _warmup(step, distill.warmup)
        return distill.student.lr * _warmup(step - dmd, distill.warmup)

    return rate


def critic_rate(distill: DistillConfig) -> Callable[[int], float]:
    """The critic's learning rate: a linear warm-up from its first step, then constant."""

    def rate(step: int) -> float:
        return distill.critic.lr * _warmup(step - distill.regression_steps, distill.warmup)

    return rate


def _warmup(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (steps + 1))


def _optimizer(network: nn.Module, name: str) -> Optimizer:
    """AdamW with the betas and weight decay of DMD (arXiv 2311.18828, Section 5.1)."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    betas, decay = (0.9, 0.999), 0.01
    if name == "adamw":
        return AdamW(weights, betas=betas, weight_decay=decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "distill.optimizer: adamw8bit needs the package bitsandbytes on every node: "
            "pip install bitsandbytes, or use adamw"
        ) from error
    optimizer: Optimizer = AdamW8bit(weights, betas=betas, weight_decay=decay)
    return optimizer
