"""A network in training: weights in float32, copies in bfloat16 that compute."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.models.half import HALF
from pipeline.training.trained import Masters, Trained


def new_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 2))
    network[2].bias.requires_grad_(False)
    return network


def trained(master: nn.Module, half: bool) -> Trained:
    weights = [each for each in master.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, fused=True)
    if not half:
        return Trained(master, optimizer, lambda step: 0.1)
    computing = copy.deepcopy(master).to(HALF)
    return Trained(computing, optimizer, lambda step: 0.1, Masters(master, computing))


def learn(each: Trained, times: float = 1.0) -> Tensor:
    weight = next(each.network.parameters())
    given = torch.linspace(-1, 1, 12, dtype=weight.dtype).view(4, 3)
    (times * each.network(given).float().square().mean()).backward()
    return each.update(0, 1.0, Accelerator(cpu=True))


def copied(each: Trained) -> list[bool]:
    assert each.masters is not None
    pairs = zip(each.masters.copies, each.masters.weights, strict=True)
    return [torch.equal(copy, weight.to(copy.dtype)) for copy, weight in pairs]


def test_weights_learn_what_their_copies_are_told():
    exact, half = trained(first := new_network(), False), trained(second := new_network(), True)
    for _ in range(3):
        assert float(learn(half)) == pytest.approx(float(learn(exact)), rel=0.02)
        half.renew()
    for ours, theirs in zip(second.parameters(), first.parameters(), strict=True):
        assert ours.dtype == torch.float32 and ours.grad is None
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
    assert all(each.grad is None for each in half.network.parameters())


def test_copies_follow_the_optimiser_and_whoever_else_changes_a_weight():
    each = trained(master := new_network(), True)
    learn(each)
    assert not any(copied(each)[:1]), "cast when they are asked for next"
    each.renew()
    assert all(copied(each))
    with torch.no_grad():
        master[0].weight.fill_(0.25)
    assert not all(copied(each))
    each.renew()
    assert all(copied(each))


def test_weights_are_cast_once_an_update(monkeypatch):
    each, casts = trained(new_network(), True), []
    kernel = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *a: (casts.append(len(a[0])), kernel(*a)))
    for _ in range(3):
        each.renew()
    assert casts == []
    learn(each)
    for _ in range(3):
        each.renew()
    assert casts == [3, 3], "gradients one way, weights the other, of three that learn"


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_without_a_finite_gradient_nothing_moves(half, fused):
    each = trained(master := new_network(), half)
    if not fused:
        each.optimizer.defaults["fused"] = False
    learn(each)
    weights = [weight.clone() for weight in master.parameters()]
    state = copy.deepcopy(each.optimizer.state_dict()["state"])
    assert not learn(each, float("nan")).isfinite()
    for before, after in zip(weights, master.parameters(), strict=True):
        assert torch.equal(before, after)
    after = each.optimizer.state_dict()["state"]
    for number, values in state.items():
        assert all(torch.equal(value, after[number][name]) for name, value in values.items())
    assert learn(each).isfinite()
    assert not torch.equal(weights[0], next(master.parameters()))
