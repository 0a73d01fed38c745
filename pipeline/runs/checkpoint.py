"""The state of a training run as safetensors files: each worker writes its share, all can read.

The files are those of `torch.distributed.checkpoint`; nothing in them is code.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.optim import Optimizer

from pipeline.models.ema import Average
from pipeline.models.frozen import frozen
from pipeline.utils.errors import UserError

# It says so of every call of one worker alone.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

Weights = Literal["ema", "raw"]

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass(frozen=True)
class State:
    """Everything that later steps depend on.

    Args:
        networks: Student, critic and average, by name, bare or sharded.
        optimizers: By the name of the network they train. They are given their state of step 0
            here, so that it is the same whether or not a checkpoint is made before they begin.
    """

    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]

    def __post_init__(self) -> None:
        for name, optimizer in self.optimizers.items():
            get_optimizer_state_dict(self.networks[name], optimizer)  # makes what is missing
            for values in optimizer.state.values():
                values["step"] = torch.as_tensor(values["step"]).zero_()  # bitsandbytes has an int

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies, as "student.<name>", "student_optimizer.<name>"."""
        parts: dict[str, Mapping[str, Any]] = {
            name: _kept(each) for name, each in self.networks.items()
        }
        for name, each in self.optimizers.items():
            found = get_optimizer_state_dict(self.networks[name], each, options=_FLAT)
            parts[f"{name}_optimizer"] = found
        return {
            f"{part}.{name}": value.detach() if value.ndim else value.detach().view(1)
            for part, values in parts.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }


def _kept(network: nn.Module) -> dict[str, Any]:
    """The state of a network without what is frozen in it."""
    names = network.shared if isinstance(network, Average) else frozen(network)
    return {k: v for k, v in get_model_state_dict(network).items() if k not in names}


def write(folder: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Write this worker's share of the tensors; every worker of the group calls it.

    Args:
        folder: An existing empty folder of this worker.
        tensors: As `State.tensors`.
        group: Of all workers, None for one alone. Not the group that training uses meanwhile.

    Raises:
        UserError: If a worker cannot write its share.
        RuntimeError: If something else fails, such as another worker.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        cause = _cause(error)
        if isinstance(cause, OSError):
            raise UserError(
                f"cannot write a checkpoint to {folder}: {cause}; free space"
            ) from error
        raise RuntimeError(f"a checkpoint failed: {cause}") from error


def read(folder: Path, state: State) -> None:
    """Restore in place, whoever wrote the files; every worker calls it.

    Raises:
        UserError: If the files cannot be read or hold other networks.
    """
    reader = _Reader(str(folder))
    _load(folder, reader, state.tensors(), alone=not dist.is_initialized())


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """One part of a state, whole, on the CPU: "student", "ema", "critic_optimizer" ...

    Raises:
        UserError: If the files cannot be read.
    """
    reader = _Reader(str(folder))
    try:
        stored = reader.read_metadata().state_dict_metadata
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    tensors = {
        name: torch.empty(found.size, dtype=found.properties.dtype)
        for name, found in stored.items()
        if name.startswith(f"{part}.") and isinstance(found, TensorStorageMetadata)
    }
    _load(folder, reader, tensors, alone=True)
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items()}


def read_student(folder: Path, weights: Weights) -> dict[str, Tensor]:
    """The student's weights, averaged ("ema") or as the optimiser left them ("raw").

    Raises:
        UserError: If the files cannot be read.
    """
    if weights == "raw":
        return read_part(folder, "student")
    average = read_part(folder, "ema")
    average.pop("n_averaged", None)
    return {name.removeprefix("module."): value for name, value in average.items()}


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


class _Reader(HuggingFaceStorageReader):
    """One that reads the headers of the files once, however often it is asked."""

    _metadata: Metadata | None = None

    def read_metadata(self) -> Metadata:
        self._metadata = self._metadata or super().read_metadata()
        return self._metadata


def _load(folder: Path, reader: _Reader, tensors: dict[str, Tensor], alone: bool) -> None:
    try:
        dcp.load(tensors, storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        raise _unreadable(folder, _cause(error)) from error


def _cause(error: CheckpointException) -> BaseException:
    """The first worker's failure; the wrapper itself is not an `Exception`."""
    return next(iter(error.failures.values()))[0]


def _unreadable(folder: Path, error: BaseException) -> UserError:
    return UserError(f"cannot read the checkpoint {folder}: {error}")
