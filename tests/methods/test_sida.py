"""SiDA: SiD's loss, and a GAN on the critic's encoder that has no weight of its own."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from pipeline.config import Config, NetworkConfig
from pipeline.diffusion.condition import Inputs
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.models.critic import Critic
from pipeline.models.families.edm import new_unet
from tests.fixtures.double import double
from tests.fixtures.methods import new_method

SHAPE, ROWS, PIXELS = (1, 8, 8), 3, 64
FOOL, TELL = 1e-4, 100 / PIXELS
"""The authors' weights of the GAN's losses, where ours are means over the pixels."""
SETTINGS = {
    "matching": {"loss": "sid-1", "range": (0.0, 0.8)},
    "gan": {"real": "pairs", "student_weight": FOOL, "critic_weight": TELL, "heads": "mean"},
    "regression": {"weight": 0.0},
    "draws": "shared",
}
METHOD = new_method(SHAPE, 3, **SETTINGS)


def unet(seed: int):
    network = NetworkConfig(channels=(8, 16), attention=(False, False), norm_groups=4)
    return new_unet(network, SHAPE, 3, seed).double()


def critic() -> Critic:
    return Critic(unet(3), learnt=False)


def drawn(method: DMD = METHOD) -> Microbatch:
    rng = torch.Generator().manual_seed(1)
    noise, images = torch.randn(2, ROWS, *SHAPE, generator=rng)
    pairs = PairBatch(torch.arange(ROWS), torch.tensor([0, 2, 1]), noise, images)
    real = torch.randn(ROWS, *SHAPE, generator=rng), torch.tensor([2, 1, 0])
    return double(method.draw(ROWS, rng, pairs, real))


def test_a_logit_is_the_mean_of_the_channels_at_a_place():
    network, one, seen = critic(), drawn(), []
    assert not list(network.heads.parameters())
    module = network.denoiser.get_submodule(network.stages[0])
    module.register_forward_hook(lambda _, __, output: seen.append(output))
    x_t = one.matching.add_noise(one.noise, METHOD.schedule)
    logits = network.logits(Inputs(x_t, one.matching.t, one.condition))
    assert logits.shape == (ROWS, 16)
    torch.testing.assert_close(logits, seen[0].mean(1).flatten(1))


def test_the_students_gradient_is_that_of_the_authors_sum():
    """Theirs: 100 times SiD's loss and 0.01 of the batch's mean entropy, over distances."""
    network, teacher, one = critic(), unet(2).requires_grad_(False), drawn()
    x0 = torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plan = METHOD.plan(0)
    assert plan.on_samples == {"matching": 1.0, "gan": FOOL}
    found, _ = METHOD._sample_gradient(plan, teacher, network, x0, one)

    def theirs(x0: Tensor) -> Tensor:
        inputs = Inputs(one.matching.add_noise(x0, METHOD.schedule), one.matching.t, one.condition)
        real, (fake, logits) = teacher(*inputs), network.denoise_and_logits(inputs)
        size = (x0 - real).abs().mean((1, 2, 3), keepdim=True).detach()
        sid = (real - fake) * ((real - x0) - (real - fake)) / size
        each = PIXELS * cross_entropy(logits, torch.ones_like(logits)) / size
        return (100 * sid.sum() + 0.01 * each.sum()) / ROWS

    x0.requires_grad_()
    (expected,) = torch.autograd.grad(theirs(x0), x0)
    torch.testing.assert_close(found, expected / (100 * PIXELS), rtol=1e-7, atol=1e-12)
    alone, _ = METHOD._sample_gradient(
        StepPlan(on_samples={"matching": 1.0}), teacher, network, x0.detach(), one
    )
    assert (found - alone).norm() > 1e-6 * found.norm()


def test_the_encoder_alone_learns_to_tell():
    network, one = critic(), drawn()
    samples = torch.full((ROWS, *SHAPE), 0.7, dtype=torch.float64)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = METHOD.critic_loss(network, samples, one)
        loss.total.backward()
        optimizer.step()
    assert loss.parts["gan_accuracy"] > 0.9


@pytest.mark.parametrize(
    "settings",
    [{"draws": "separate"}, {"matching": {"weight": 0.0}}, {"gan": {"heads": "mean"}}],
    ids=["draws", "matching", "real"],
)
def test_its_scale_needs_the_matching_loss_at_the_same_draws(settings):
    with pytest.raises(ValidationError, match="heads: mean scales .* distill.draws shared, and"):
        Config.model_validate({"distill": SETTINGS | settings})
