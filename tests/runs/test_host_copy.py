"""The copy of a state on the host: where its memory is, and who waits for whom."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from pipeline.models.ema import ema_of
from pipeline.runs.checkpoint import State
from pipeline.runs.host_copy import HostCopy


@pytest.fixture
def state() -> State:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    return State({"student": network, "ema": ema_of(network, 0.9)}, {"student": optimizer})


def test_every_copy_is_the_state_of_then_in_the_memory_of_the_start(state):
    copy = HostCopy(state)
    places = {name: value.data_ptr() for name, value in copy.wait().items()}
    for _ in range(2):
        with torch.no_grad():
            for value in state.tensors().values():
                value.add_(1)
        copy.begin()
        copy.before_change()
        then = {name: value.clone() for name, value in state.tensors().items()}
        with torch.no_grad():
            for value in state.tensors().values():
                value.zero_()
        found = copy.wait()
        assert found.keys() == then.keys()
        assert all(torch.equal(value, then[name]) for name, value in found.items())
        assert {name: value.data_ptr() for name, value in found.items()} == places


class OnGPU(torch.Tensor):
    """A tensor that says so."""

    is_cuda = True


class Streams:
    """Writes down what a device's streams are told."""

    def __init__(self, monkeypatch):
        self.told, self.now = [], "training"
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("training", self))
        monkeypatch.setattr(torch.cuda, "stream", self.chosen)
        empty_like, copy_ = torch.empty_like, torch.Tensor.copy_

        def memory(value, device, pin_memory):
            self.told.append(("pinned" if pin_memory else "plain", device))
            return empty_like(value.as_subclass(torch.Tensor))

        def copied(into, value, non_blocking):
            self.told.append((self.now, "copies" if non_blocking else "copies and waits"))
            return copy_(into, value.as_subclass(torch.Tensor))

        monkeypatch.setattr(torch, "empty_like", memory)
        monkeypatch.setattr(torch.Tensor, "copy_", copied)

    @contextmanager
    def chosen(self, stream):
        self.now = stream.name
        yield
        self.now = "training"

    def since(self) -> list[tuple[str, str]]:
        """In their order, each once."""
        told = list(dict.fromkeys(self.told))
        self.told.clear()
        return told


class Stream:
    """One of them."""

    device = "cuda:1"

    def __init__(self, name, streams):
        self.name, self.streams = name, streams

    def wait_stream(self, other):
        self.streams.told.append((self.name, f"waits for {other.name}"))

    def synchronize(self):
        self.streams.told.append(("host", f"waits for {self.name}"))


def test_a_gpu_copies_on_a_stream_of_its_own_to_pinned_memory(monkeypatch, state):
    tensors = {name: value.as_subclass(OnGPU) for name, value in state.tensors().items()}
    monkeypatch.setattr(State, "tensors", lambda self: tensors)
    streams = Streams(monkeypatch)
    copies = [("side", "waits for training"), ("side", "copies")]
    copy = HostCopy(state)
    assert streams.since() == [("pinned", "cpu"), *copies, ("host", "waits for side")]
    copy.begin()
    assert streams.since() == copies, "after what changed the state, and the host goes on"
    copy.before_change()
    assert streams.since() == [("training", "waits for side")]
    copy.wait()
    assert streams.since() == [("host", "waits for side")]
