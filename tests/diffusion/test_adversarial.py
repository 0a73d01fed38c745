"""GAN losses, and the weights of f-divergences."""

import pytest
import torch

from pipeline.diffusion.adversarial import (
    RATIOS,
    discriminator_loss,
    fool_loss,
    ratio_weights,
    smoothness_loss,
)
from pipeline.methods.terms.gan import NEARBY


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("kl", lambda r: r * r.log()),
        ("js", lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log()),
    ],
)
def test_a_weight_is_the_divergences_curvature_times_the_squared_ratio(name, f):
    ratio = torch.linspace(0.3, 15, 40, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(ratio).sum(), ratio, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), ratio)
    weights = ratio_weights(ratio.detach().log()[:, None], name)
    expected = (curve * ratio**2).detach()
    torch.testing.assert_close(weights, expected / expected.mean())


def test_dmds_own_divergence_has_no_weights():
    assert ratio_weights(torch.tensor([[-50.0, -50.0], [50.0, 50.0]]), "reverse-kl") is None


@pytest.mark.parametrize(("name", "ends"), [("kl", RATIOS), ("js", [r / (1 + r) for r in RATIOS])])
def test_the_ratio_has_ends_and_its_weights_a_mean_of_one(name, ends):
    """The ratio, not the weight: js has weights between 0.09 and 0.95."""
    low, high = ends
    weights = ratio_weights(torch.tensor([[-90.0, -50.0], [90.0, 50.0]]), name)
    assert weights.tolist() == pytest.approx([2 * end / (low + high) for end in ends])
    many = ratio_weights(3 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), name)
    assert many.mean().item() == pytest.approx(1)
    assert (many.max() / many.min()).item() <= high / low * (1 + 1e-6)


def test_losses_are_least_where_they_should_be():
    low, high = torch.full((4, 1), -9.0), torch.full((4, 1), 9.0)
    assert fool_loss(high) < 0.01 < fool_loss(low)
    assert discriminator_loss(low, high) < 0.01 < discriminator_loss(high, low)
    assert discriminator_loss(0 * low, 0 * low).item() == pytest.approx(2 * 0.6931, rel=1e-3)


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_smoothness_is_the_gradients_in_either_precision(precision, kind):
    """Of a network of two layers, whose logits are rounded as those of a step are."""
    rng, nearby = torch.Generator().manual_seed(0), NEARBY[precision]
    one, two = torch.randn(64, 16, generator=rng) / 4, torch.randn(1, 64, generator=rng) / 8

    def logits(x: torch.Tensor) -> torch.Tensor:
        x, weights, last = (each.to(getattr(torch, kind)) for each in (x, one, two))
        return (torch.tanh(x @ weights.mT) @ last.mT).float()

    x, shift = torch.randn(2, 20_000, 16, generator=rng)
    exact = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((torch.tanh(exact @ one.mT) @ two.mT).sum(), exact)
    loss = smoothness_loss(logits(x), logits(x + nearby * shift), nearby)
    assert loss.item() == pytest.approx(slope.square().sum(1).mean().item(), rel=0.1)


def test_smoothness_is_near_the_squared_gradient_of_the_logit():
    rng = torch.Generator().manual_seed(0)
    slope, shift = torch.tensor([3.0, -4.0]), torch.randn(100_000, 2, generator=rng)
    loss = smoothness_loss(torch.zeros(100_000), 0.01 * shift @ slope, 0.01)
    assert loss.item() == pytest.approx(25.0, rel=0.02)
