"""Tensors on their way to a device."""

import torch

from pipeline.diffusion import devices
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.microbatch import Microbatch, NoiseSample, Real

B = 2


def full() -> tuple[Microbatch, list[torch.Tensor]]:
    """A microbatch of all that one can have, and the tensors in it."""
    tensors = list(torch.randn(16, B, 1).unbind())
    rest = iter(tensors)

    def sample() -> NoiseSample:
        return NoiseSample(next(rest), next(rest))

    microbatch = Microbatch(
        noise=next(rest),
        condition=Condition({"labels": next(rest)}),
        matching=sample(),
        critic=sample(),
        generator_noise=sample(),
        real=Real(next(rest), Condition(), NoiseSample(next(rest), tensors[0]), next(rest)),
        pairs=PairBatch(next(rest), None, next(rest), next(rest)),
        pairs_condition=Condition({"tokens": next(rest)}),
        draws={"mine": next(rest)},
    )
    return microbatch, tensors


def test_all_of_a_microbatch_goes_to_a_gpu_from_pinned_memory_and_nothing_waits(monkeypatch):
    moves = []

    class Pinned:
        def __init__(self, value):
            self.value = value

        def to(self, device, non_blocking=False):
            moves.append((self.value.data_ptr(), device.type, non_blocking))
            return self.value

    microbatch, tensors = full()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda value: Pinned(value))
    microbatch.to(torch.device("cuda"))
    assert {place for place, *_ in moves} == {each.data_ptr() for each in tensors}
    assert {tuple(rest) for _, *rest in moves} == {("cuda", True)}


def test_what_is_there_already_stays_as_it_is():
    microbatch, _ = full()
    assert microbatch.to(torch.device("cpu")).noise is microbatch.noise
    assert microbatch.to(torch.device("meta")).noise.is_meta


def test_a_thread_takes_the_gpu_that_is_named(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        devices.choose(torch.device(name))
    assert chosen == [torch.device("cuda:1")]
