"""Frozen linear layers in fewer bits; their laws in networks are in `tests/families`."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from pipeline.models.quantized import FORMATS, QuantizedLinear, quantized
from pipeline.training.memory import kept_bytes
from pipeline.utils.errors import UserError

CPU = torch.device("cpu")
BITS = {"int8": 8 + 32 / 192, "nf4": 4 + 32 / 64}
"""Of a weight in rows of 192, the scales' share among them."""
STEP = {"int8": 0.5 / 127, "nf4": 0.153}
"""Largest error of a weight to the largest weight that shares its scale: half of the widest gap."""


@pytest.fixture(params=FORMATS)
def format(request):
    return request.param


@pytest.fixture
def network() -> nn.Module:
    """An embedding, a block of two linear layers with a norm and a convolution, a projection."""
    block = nn.Sequential(
        nn.Linear(192, 64), nn.LayerNorm(64), nn.Linear(64, 192, bias=False), nn.Conv1d(1, 1, 1)
    )
    layers = {"embed": nn.Linear(192, 192), "blocks": nn.ModuleList([block])}
    return nn.ModuleDict({**layers, "project": nn.Linear(192, 4)}).requires_grad_(False)


def test_a_matrix_is_near_what_it_was_in_its_bits(format):
    layer = nn.Linear(192, 64).requires_grad_(False)
    rounded = QuantizedLinear(layer, FORMATS[format])
    whole = rounded.whole(torch.float32)
    group = 192 if format == "int8" else 64
    weights, again = (each.reshape(-1, group) for each in (layer.weight, whole))
    largest = weights.abs().amax(1, keepdim=True)
    assert ((weights - again).abs() <= largest * (STEP[format] + 1e-6)).all()
    assert (weights - again).abs().max() > 0.2 * STEP[format] * largest.min()
    held = sum(v.numel() * v.element_size() for v in rounded.buffers())
    assert 8 * held == BITS[format] * layer.weight.numel()
    assert rounded.bias is layer.bias
    half = rounded.whole(torch.bfloat16)
    assert torch.equal(half, whole.bfloat16()), "rounded once"


def test_rows_of_nothing_stay_so(format):
    layer = nn.Linear(64, 2)
    nn.init.zeros_(layer.weight)
    assert not QuantizedLinear(layer, FORMATS[format]).whole(torch.float32).any()


def test_it_gives_and_passes_on_what_its_whole_matrix_does_and_keeps_nothing(format):
    layer = QuantizedLinear(nn.Linear(192, 64).requires_grad_(False), FORMATS[format])
    x = torch.randn(3, 5, 192, requires_grad=True)
    whole = layer.whole(torch.float32)
    ours, theirs = layer(x), linear(x, whole, layer.bias)
    assert torch.equal(ours, theirs)
    grads = [torch.autograd.grad(each.square().sum(), x) for each in (ours, theirs)]
    torch.testing.assert_close(*grads)
    assert kept_bytes(lambda: layer(x)) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), linear(x, whole, layer.bias))
        assert layer(x).dtype == torch.bfloat16
    assert copy.deepcopy(layer).to("meta")(x.to("meta")).shape == (3, 5, 64)


def test_linear_layers_of_blocks_alone_are_rounded(format, network):
    before = copy.deepcopy(network)
    assert quantized(network, None, CPU) is network
    assert not any(isinstance(each, QuantizedLinear) for each in network.modules())
    assert quantized(network, format, CPU) is network
    rounded = {n for n, each in network.named_modules() if isinstance(each, QuantizedLinear)}
    assert rounded == {"blocks.0.0", "blocks.0.2"}
    kept = {k: v for k, v in network.state_dict().items() if k in dict(network.named_parameters())}
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in kept.items())
    shapes = {name: (v.shape, v.dtype) for name, v in network.state_dict().items()}
    meta = quantized(before.to("meta"), format, torch.device("meta")).state_dict()
    assert {name: (v.shape, v.dtype) for name, v in meta.items()} == shapes


def test_a_missing_package_is_named(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"distill\.quantize: nf4 needs the package bitsandbytes"):
        quantized(network, "nf4", CPU)
    quantized(network, "int8", CPU)
