"""The moving average of weights."""

import copy

import pytest
import torch
from torch import nn

from pipeline.models.ema import ema_of


def step(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.999])
def test_it_is_the_written_recurrence(decay: float) -> None:
    """a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)); 0.4 is met at n = 5."""
    model = nn.Linear(3, 2).double()
    ema = ema_of(model, decay)
    step(model)
    ema.update_parameters(model)
    expected = [weight.detach().clone() for weight in model.parameters()]
    for n in range(1, 20):
        step(model)
        ema.update_parameters(model)
        kept = min(decay, (1 + n) / (10 + n))
        expected = [
            kept * a + (1 - kept) * w.detach()
            for a, w in zip(expected, model.parameters(), strict=True)
        ]
        for average, value in zip(ema.module.parameters(), expected, strict=True):
            torch.testing.assert_close(average.detach(), value, atol=1e-12, rtol=0)


def test_the_first_update_copies() -> None:
    model = nn.Linear(3, 2)
    ema = ema_of(model, 0.999)
    step(model)
    ema.update_parameters(model)
    assert torch.equal(ema.module.weight, model.weight)


def test_it_neither_trains_nor_touches_the_model() -> None:
    model = nn.Linear(3, 2).train()
    before = copy.deepcopy(model.state_dict())
    ema = ema_of(model, 0.9)
    ema.update_parameters(model)
    assert not ema.module.training and not any(w.requires_grad for w in ema.parameters())
    assert model.training and all(w.requires_grad for w in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_saved_average_goes_on_where_it_was() -> None:
    """The count of updates is part of the state, and with it the warm-up."""
    model = nn.Linear(3, 2)
    ema = ema_of(model, 0.999)
    for _ in range(4):
        step(model)
        ema.update_parameters(model)
    other = ema_of(nn.Linear(3, 2), 0.999)
    other.load_state_dict(ema.state_dict())
    step(model)
    ema.update_parameters(model)
    other.update_parameters(model)
    assert torch.equal(ema.module.weight, other.module.weight)
