"""A copy of a run's state in the host's memory, made while training goes on."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pipeline.runs.checkpoint import State


class HostCopy:
    """A copy of a state on the CPU. Its memory is there from the start: to get it takes long.

    Of a state on a GPU the memory is pinned, and a stream of its own copies: the host waits for it
    in `wait` alone. On a CPU `begin` does it all.

    Args:
        state: Its tensors keep their names, shapes and places.
    """

    def __init__(self, state: State) -> None:
        self._state, tensors = state, state.tensors()
        self._copies = {
            name: torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            for name, value in tensors.items()
        }
        on_gpu = next((value.device for value in tensors.values() if value.is_cuda), None)
        self._stream = torch.cuda.Stream(on_gpu) if on_gpu else None
        self.begin()  # the system gives memory when it is first written to
        self.wait()

    def begin(self) -> None:
        """Copy the state as it is now, over the copy before."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for name, value in self._state.tensors().items():
                _local(self._copies[name]).copy_(_local(value), non_blocking=True)

    def before_change(self) -> None:
        """What the device is told from now on, it does once the state is copied."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def wait(self) -> dict[str, Tensor]:
        """The copy once it is whole, as `State.tensors`; the next `begin` changes it."""
        if self._stream is not None:
            self._stream.synchronize()
        return self._copies


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
