"""What training will hold in a worker's memory, counted before any of it is there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.methods.terms.term import Term
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Denoiser, blank
from pipeline.models.frozen import frozen, meta_copy
from pipeline.models.network import Network
from pipeline.models.quantized import quantized
from pipeline.training.attention import one_kernel
from pipeline.training.method import build_method, new_networks
from pipeline.utils.errors import UserError

_MOMENTS = {"adamw": 8, "adamw8bit": 2}
"""Bytes of both moments, for each weight."""

_RECOMPUTE: tuple[bool | int, ...] = (False, 4, 3, 2, True)
"""Values of `distill.recompute` that are tried, from the fastest to that of least memory."""
GIB = 2**30
CONTEXT = GIB
"""Bytes that CUDA and its libraries take beside a network."""
WORKSPACE = 0.1
"""What PyTorch takes on a GPU beside tensors, as a part of them: at most 0.08 was measured."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that one worker holds at its fullest.

    Attributes:
        weights: Of student, critic, average and teacher, and of the copies that compute in bf16;
            with adapters, what is shared once.
        gradients: Of student and critic.
        moments: Of their optimisers.
        activations: That the backward pass of one microbatch needs, the student's or the critic's.
        term_networks: Weights and activations of the terms' own networks, such as a perceptual
            distance's, the decoder's with them.
        encoders: Of the teacher's VAE and text encoders.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    term_networks: int = 0
    encoders: int = 0

    @property
    def total(self) -> int:
        """All of it; the library's own few hundred MB come on top."""
        return sum(vars(self).values())


def footprint(
    config: Config, teacher: Denoiser, workers: int = 1, recompute: bool | int | None = None
) -> Footprint:
    """Count what a worker of a group will hold.

    Args:
        config: Of the run.
        teacher: Loaded.
        workers: In the group: with `distill.sharded` they share weights, gradients and moments.
        recompute: Instead of `distill.recompute`.

    Raises:
        UserError: If the weights of a perceptual distance cannot be read.
    """
    distill = config.distill
    if recompute is not None:
        distill = distill.model_copy(update={"recompute": recompute})
    teacher = teacher.at(teacher.buckets.largest)
    meta = torch.device("meta")
    at_meta = quantized(meta_copy(teacher), distill.quantize, meta)
    student, critic = new_networks(distill, config.network, config.seed, at_meta)
    student, critic = student.to(meta), critic.to(meta)
    half = 2 if distill.precision == "bf16" else 1
    taught = _bytes(at_meta, half)
    parts = workers if distill.sharded else 1
    method = build_method(distill, teacher, meta)
    pairs = distill.regression.batch_size // distill.lanes if method.recipe.needs.pairs else 0
    trained, shared = _own(student) + _own(critic), 0
    learning = _learning(student) + _learning(critic)
    copies = learning // 2 if half == 2 and not distill.sharded else 0
    if distill.sharded:  # each has a part of its own of what is shared otherwise
        shared = sum(_bytes(each) - _own(each) for each in (student, student, critic)) // half
    return Footprint(
        weights=(trained + _own(student) + shared) // parts
        + copies
        + taught // (parts if distill.shard_teacher else 1),
        gradients=learning // parts,
        moments=learning // 4 * _MOMENTS[distill.optimizer] // parts,
        activations=_activations(
            student, critic, distill.batch_size // distill.lanes, pairs, method.recipe.shared
        )
        // half,
        term_networks=sum(_held_bytes(term, teacher.shape, pairs) for term in method.terms),
        encoders=sum(_bytes(part) for part in teacher.frozen_parts),
    )


def memory_verdict(
    footprint_of: Callable[[bool | int], Footprint],
    recompute: bool | int,
    memory: int,
    context: int = 0,
    workspace: float = 0.0,
) -> str:
    """What a worker needs, and the least `distill.recompute` that fits if it is less than its own.

    Args:
        footprint_of: Of a worker under a value of `distill.recompute`.
        recompute: Its own.
        memory: Bytes that a worker has.
        context: Bytes of them that are no tensors.
        workspace: What is left free of the rest, as a part of the tensors.

    Raises:
        UserError: If it has too little.
    """
    own, mine = footprint_of(recompute), _part(recompute)
    room = (memory - context) / (1 + workspace)
    fits = own.total <= room
    others = (n for n in _RECOMPUTE if (_part(n) < mine if fits else _part(n) > mine))
    least = next((n for n in others if footprint_of(n).total <= room), None)
    told = "" if least is None else f"distill.recompute {str(least).lower()}"
    need, has = f"{(own.total + context) / GIB:.2f}", f"{memory / GIB:.1f}"
    more = f" and {workspace:.0%} for PyTorch's workspace" if workspace else ""
    if fits:
        text = f"{need} of {has} GiB{more} for a worker of distill"
        return f"{text}; {told} fits too" if told else text
    sizes = (f"{key.replace('_', ' ')} {size / GIB:.1f}" for key, size in vars(own).items())
    ways = [f"{told} (which is enough)"] if told else ["distill.recompute true"] * (mine < 1)
    ways += ["distill.precision bf16", "more distill.lanes", "distill.sharded"]
    raise UserError(
        f"a worker needs {need} GiB ({', '.join(sizes)}){more}, and has {has}: set "
        f"{', '.join(ways)}, or use a larger GPU"
    )


def _part(recompute: bool | int) -> float:
    """Of the blocks, that which is recomputed."""
    return 1 / recompute if recompute else 0.0


def _activations(
    student: Network, critic: Network | Critic, fresh: int, pairs: int, shared: bool
) -> int:
    """Bytes kept for the backward pass in the fuller of both passes, for so many rows.

    With shared draws pairs are among the fresh samples, and the critic denoises and judges these in
    one pass.
    """
    taught = saved_bytes(student, max(fresh, pairs) if shared else fresh + pairs)
    if not isinstance(critic, Critic) or not critic.heads:
        return taught
    inputs = blank(critic.denoiser.at(student.shape), fresh)
    judged = inputs._replace(x_t=inputs.x_t.clone().requires_grad_())
    judge = critic.denoise_and_logits if shared else critic.logits
    taught += kept_bytes(lambda: judge(judged), critic)
    return max(taught, kept_bytes(lambda: critic(*inputs, judged=inputs), critic))


def saved_bytes(student: Denoiser, rows: int) -> int:
    """Bytes that a forward pass of so many images keeps for the backward pass, weights aside.

    Nothing is computed for a network on the meta device.
    """
    given = blank(student, rows)
    return kept_bytes(lambda: student(*given), student)


def _held_bytes(term: Term[Any], shape: tuple[int, ...], pairs: int) -> int:
    """Bytes of a term's own networks, and of what a call with so many pairs keeps."""
    held = term.held(shape, pairs)
    if held is None:
        return 0
    kept = kept_bytes(held.call, *held.networks, *held.shared)
    return sum(_bytes(network) for network in held.networks) + held.rows * kept


def kept_bytes(call: Callable[[], object], *networks: nn.Module) -> int:
    """Bytes that a call keeps for the backward pass, the networks' own aside."""
    values = [v for network in networks for v in (*network.parameters(), *network.buffers())]
    own = {value.untyped_storage() for value in values}
    saved: set[torch.UntypedStorage] = set()

    def keep(value: Tensor) -> Tensor:
        saved.add(value.untyped_storage())  # one object for all tensors that share it
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), one_kernel():
        call()
    return sum(storage.nbytes() for storage in saved - own)


def _bytes(network: nn.Module, part: int = 1) -> int:
    """Bytes of a network, its weights but not its buffers in so much shorter numbers."""
    weights, buffers = (
        sum(value.numel() * value.element_size() for value in values)
        for values in (network.parameters(), network.buffers())
    )
    return weights // part + buffers


def _learning(network: nn.Module) -> int:
    """Bytes of the weights that learn: buffers have no gradients and no moments."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _own(network: nn.Module) -> int:
    """Bytes of a network in training that it does not share with the teacher."""
    names = frozen(network)
    if not names:
        return _bytes(network)
    values = [value for name, value in network.named_parameters() if name not in names]
    return sum(value.numel() * value.element_size() for value in values)
