"""The critic as a discriminator, shared passes, and students of a few steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import Config, NetworkConfig
from pipeline.diffusion.condition import Condition, Inputs
from pipeline.diffusion.noise import EDM
from pipeline.diffusion.pairs import PairBatch
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import Microbatch, StepPlan
from pipeline.models.critic import Critic, Head, pooled
from pipeline.models.denoiser import blank
from pipeline.models.families.edm import new_unet
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_teacher
from pipeline.utils.errors import UserError
from tests.fixtures.double import double
from tests.fixtures.methods import new_method
from tests.fixtures.tiny_models import save_tiny

SHAPE, ROWS, PAIRS = (1, 8, 8), 3, 2
MATCHING_ALONE = StepPlan(on_samples={"matching": 1.0})
GAN_ALONE = StepPlan(on_samples={"gan": 1.0})
TURN = StepPlan({"regression": 0.25}, {"matching": 1.0, "gan": 0.5}, critic=True)


GAN = {"real": "pairs", "student_weight": 0.5, "critic_weight": 0.1, "smoothness": 0.01}


def method(steps: FewStepSampler | None = None, **changes) -> DMD:
    ends = {"range": (0.2, 0.8)}
    settings = {"matching": ends, "critic": ends, "gan": GAN, "draws": "shared"}
    return new_method(SHAPE, 3, steps, **settings | changes)


def unet(seed: int) -> UNet2D:
    network = NetworkConfig(channels=(8, 16), attention=(False, False), norm_groups=4)
    return new_unet(network, SHAPE, 3, seed).double()


def networks() -> tuple[UNet2D, UNet2D, Critic]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        critic = Critic(unet(3)).double()
    return unet(1), unet(2).requires_grad_(False), critic


def microbatch(dmd: DMD, step_index: int = 0) -> Microbatch:
    rng = torch.Generator().manual_seed(1)
    noise, images = torch.randn(2, PAIRS, *SHAPE, generator=rng)
    pairs = PairBatch(torch.arange(PAIRS), torch.tensor([0, 2]), noise, images)
    real = torch.randn(ROWS, *SHAPE, generator=rng), torch.tensor([2, 1, 0])
    return double(dmd.draw(ROWS, rng, pairs, real, step_index))


def gradients(dmd: DMD, one: Microbatch, parts: tuple[nn.Module, ...]) -> dict[str, Tensor]:
    """Of a student's and then a critic's turn."""
    student, teacher, critic = parts
    loss = dmd.student_loss(TURN, student, teacher, critic, one)
    loss.total.backward()
    assert all(p.grad is None for p in (*critic.parameters(), *teacher.parameters()))
    assert loss.samples is not None and not loss.samples.requires_grad
    dmd.critic_loss(critic, loss.samples, one).total.backward()
    found = {}
    for name, network in (("student", student), ("critic", critic)):
        found |= {f"{name}.{key}": p.grad for key, p in network.named_parameters()}
        assert all(p.grad is not None and p.grad.any() for p in network.parameters()), name
    return found


@contextmanager
def runs_of(module: nn.Module) -> Iterator[list[int]]:
    rows: list[int] = []
    handle = module.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    yield rows
    handle.remove()


def test_separate_passes_give_the_gradients_of_shared_ones_at_the_same_draws():
    dmd = method()
    shared = microbatch(dmd)
    assert shared.generator_noise is None and shared.discriminator_noise is None
    apart = replace(shared, generator_noise=shared.matching, discriminator_noise=shared.critic)
    ours, theirs = (gradients(dmd, one, networks()) for one in (shared, apart))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12)
    assert torch.equal(shared.noise[:PAIRS], shared.pairs.noise)
    assert shared.condition["labels"][:PAIRS].tolist() == [0, 2]
    own = microbatch(method(draws="separate"))
    assert torch.equal(own.noise[PAIRS:], shared.noise[PAIRS:])
    assert not torch.isin(own.noise[:PAIRS], shared.noise).any()
    assert not torch.equal(own.generator_noise.t, own.matching.t)
    assert torch.equal(own.real.noise_sample.t, own.discriminator_noise.t)
    student, _, _ = parts = networks()
    with runs_of(student) as rows:
        gradients(dmd, shared, parts)
        gradients(method(draws="separate"), own, (student, *networks()[1:]))
    assert rows == [ROWS, ROWS + PAIRS]


def test_the_students_gradient_is_that_of_its_three_losses():
    """Against plain autograd through frozen networks, each loss on its own."""
    dmd = method()
    one, (student, teacher, critic) = microbatch(dmd), networks()
    found = gradients(dmd, one, networks())
    critic.requires_grad_(False)
    start = torch.full((ROWS,), 80.0, dtype=torch.float64)
    x0 = student(80.0 * one.noise, start, one.condition)
    x_t, t = one.matching.add_noise(x0, dmd.schedule), one.matching.t
    real, fake = (each(x_t.detach(), t, one.condition) for each in (teacher, critic.denoiser))
    size = (x0 - real).abs().mean((1, 2, 3), keepdim=True)
    pull = ((fake - real) / size).detach() / x0.numel()
    fooled = nn.functional.softplus(-critic.logits(Inputs(x_t, t, one.condition))).mean()
    pairs = student(80.0 * one.pairs.noise, start[:PAIRS], one.pairs_condition)
    regression = (pairs - one.pairs.images).square().mean()
    ((x0 * pull).sum() + 0.5 * fooled + 0.25 * regression).backward()
    for name, p in student.named_parameters():
        torch.testing.assert_close(found[f"student.{name}"], p.grad, rtol=1e-7, atol=1e-12)


def test_the_decoder_runs_for_denoised_rows_alone():
    dmd, (student, teacher, critic) = method(), networks()
    one, backbone = microbatch(dmd), critic.denoiser.backbone
    with runs_of(backbone.conv_in) as encoded, runs_of(backbone.conv_out) as decoded:
        samples = dmd.student_loss(TURN, student, teacher, critic, one).samples
        dmd.critic_loss(critic, samples, one)
    assert encoded == [ROWS, ROWS, 2 * ROWS] and decoded == [ROWS, ROWS]


def test_a_discriminator_learns_to_tell_and_a_student_to_fool_it():
    dmd, (_, _, critic) = method(), networks()
    one = microbatch(dmd)
    samples = torch.full((ROWS, *SHAPE), 0.7, dtype=torch.float64)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(60):
        parts = dmd.critic_loss(critic, samples, one).parts
        optimizer.zero_grad()
        dmd.critic_loss(critic, samples, one).total.backward()
        optimizer.step()
    assert parts["gan_accuracy"] == 1.0
    plan = GAN_ALONE
    before = dmd._sample_gradient(plan, nn.Identity(), critic, samples, one)
    after = dmd._sample_gradient(plan, nn.Identity(), critic, samples - 30 * before[0], one)
    assert after[1]["gan_student"] < before[1]["gan_student"]


@pytest.mark.parametrize("gan_weight", [0.0, 0.5])
@pytest.mark.parametrize("divergence", ["kl", "js", "jeffreys"])
def test_a_divergence_weighs_every_samples_pull_by_its_logit(divergence, gan_weight):
    plain = method()
    other = method(gan={**GAN, "divergence": divergence})
    _, teacher, critic = networks()
    one, x0 = microbatch(plain), torch.randn(ROWS, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        for weight in critic.heads.parameters():
            weight.mul_(30)
        x_t = one.matching.add_noise(x0, plain.schedule)
        ratio = critic.logits(Inputs(x_t, one.matching.t, one.condition)).mean(1).exp()
    clipped = ratio.clamp(0.1, 20)
    jeffreys = 0.4 * clipped + 0.6
    weights = {"kl": clipped, "js": clipped / (1 + clipped), "jeffreys": jeffreys}[divergence]
    expected = weights / weights.mean()
    assert expected.max() > 1.2 * expected.min()
    alone, _ = plain._sample_gradient(MATCHING_ALONE, teacher, critic, x0, one)
    generator_noise, _ = plain._sample_gradient(GAN_ALONE, teacher, critic, x0, one)
    found, _ = other._sample_gradient(
        StepPlan(on_samples={"matching": 1.0, **({"gan": gan_weight} if gan_weight else {})}),
        teacher,
        critic,
        x0,
        one,
    )
    pull = expected[:, None, None, None] * alone + gan_weight * generator_noise
    torch.testing.assert_close(found, pull, rtol=1e-9, atol=1e-12)


def test_blocks_that_are_not_there_are_named():
    with pytest.raises(UserError, match=r"distill\.gan\.blocks: 4 is no block .* 0 to 0"):
        Critic(unet(3), [4])


@pytest.mark.parametrize("sides", [(8, 16), (64, 8), (10, 34), (4, 4), (128, 48)])
def test_a_head_judges_maps_of_any_sides_as_a_whole(sides):
    """One logit an image, to which every place of the map leads."""
    maps = torch.randn(2, 8, *sides, requires_grad=True)
    logits = Head(8, *sides)(maps)
    assert logits.shape == (2,)
    logits[0].backward()
    assert bool(maps.grad[0].any(0).all()) and not maps.grad[1].any()


@pytest.mark.parametrize("sides", [(8, 32), (16, 16), (1, 64), (3, 5), (40, 7)])
def test_a_head_judges_maps_of_other_sides_than_its_own_as_a_whole(sides):
    """As images of several sizes have them."""
    head, maps = Head(8, 16, 16), torch.randn(2, 8, *sides, requires_grad=True)
    logits = head(maps)
    assert logits.shape == (2,)
    logits[0].backward()
    assert bool(maps.grad[0].any(0).all()) and not maps.grad[1].any()


@pytest.mark.parametrize("space", [(4, 4), (3, 2), (1, 9), (4, 8, 5)])
def test_maps_are_pooled_as_pytorch_pools_them(space):
    maps = torch.randn(2, 3, *(7, 8, 5)[-len(space) :], dtype=torch.float64)
    theirs = torch.nn.functional.adaptive_avg_pool2d
    if len(space) == 3:
        theirs = torch.nn.functional.adaptive_avg_pool3d
    torch.testing.assert_close(pooled(maps, space), theirs(maps, space))
    assert pooled(maps, tuple(maps.shape[2:])) is maps


def test_the_head_of_a_square_map_is_as_it_was():
    layers = [each for each in Head(8, 16, 16) if isinstance(each, torch.nn.Conv2d)]
    assert [each.kernel_size for each in layers] == [(4, 4), (4, 4), (4, 4), (1, 1)]
    assert [each.stride for each in layers] == [(2, 2), (2, 2), (1, 1), (1, 1)]


def test_a_critic_of_wide_images_judges_them():
    network = NetworkConfig(channels=(8, 16), attention=(False, False), norm_groups=4)
    wide = Critic(new_unet(network, (1, 8, 16), 3, 0))
    assert wide.logits(blank(wide.denoiser, 2)).shape == (2, 1)


def test_a_transformer_is_judged_on_each_of_the_blocks_that_are_named(tmp_path):
    config = Config.model_validate({"teacher": {"output": str(save_tiny(tmp_path, "dit"))}})
    teacher = load_teacher(config.teacher).requires_grad_(True)
    number = len(teacher.stages())
    assert number > 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = Critic(teacher, [number - 1, 0])
    x_t, t = torch.randn(3, *teacher.shape), torch.full((3,), 500.0)
    inputs = Inputs(x_t, t, teacher.conditioner(torch.tensor([0, 1, 0]), 3))
    logits = critic.logits(inputs)
    assert logits.shape == (3, 2)
    x0, again = critic.denoise_and_logits(inputs)
    torch.testing.assert_close(again, logits)
    torch.testing.assert_close(x0, teacher(*inputs))
    for head, at in ((0, 0), (1, number - 1)):
        gradients = torch.autograd.grad(
            critic.logits(inputs)[:, head].sum(),
            list(teacher.get_submodule(teacher.stages()[number - 1]).parameters()),
        )
        assert any(each.any() for each in gradients) == (at == number - 1)


@pytest.mark.parametrize("renoise", [True, False])
def test_training_gives_a_later_step_what_sampling_gives_it(renoise):
    steps = FewStepSampler(EDM(), (80.0, 5.0, 0.5), renoise)
    dmd, (student, teacher, critic) = method(steps=steps, draws="separate"), networks()
    given: list[tuple[Tensor, ...]] = []

    def spy(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        given.append((x_t, t))
        return student(x_t, t, condition)

    one = microbatch(dmd, step_index=2)
    images = steps.images(spy, one.noise, one.condition)
    sampled, given[:] = [*given], []
    assert torch.equal(dmd.samples(spy, one), images)
    trained, given[:] = [*given], []
    loss = dmd.student_loss(TURN, spy, teacher, critic, one)
    for each in (trained, [*given[:2], tuple(part[:ROWS] for part in given[2])]):
        assert all(
            torch.equal(a, b)
            for x, y in zip(each, sampled, strict=True)
            for a, b in zip(x, y, strict=True)
        )
    torch.testing.assert_close(loss.samples, images)
    assert given[2][1].tolist() == [0.5] * ROWS + [80.0] * PAIRS
    exits = {dmd.step_index(torch.Generator().manual_seed(seed)) for seed in range(40)}
    assert exits == {0, 1, 2}


def test_a_step_adds_fresh_noise_or_the_noise_that_was_seen():
    noise = torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(0))

    def half(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return torch.full_like(x_t, 0.5)

    seen = FewStepSampler(EDM(), (80.0, 2.0), False).input(half, noise, Condition(), 1)
    torch.testing.assert_close(seen, 0.5 + 2.0 * (80 * noise - 0.5) / 80)
    fresh = (FewStepSampler(EDM(), (80.0, 2.0)).input(half, noise, Condition(), 1) - 0.5) / 2
    assert abs(fresh.mean()) < 0.01 and abs(fresh.std() - 1) < 0.01
    assert abs((fresh * noise).mean()) < 0.01
    alone = FewStepSampler(EDM(), (80.0, 2.0)).input(half, noise[7:8], Condition(), 1)
    torch.testing.assert_close((alone - 0.5) / 2, fresh[7:8])


def test_a_matching_loss_sees_through_both_scores_if_it_says_so():
    dmd = method(matching={"loss": "sid"}, gan={})
    _, teacher, critic = networks()
    one = microbatch(method())
    x0 = torch.randn(ROWS, *SHAPE, dtype=torch.float64)

    def loss(x0: Tensor) -> Tensor:
        x_t = one.matching.add_noise(x0, dmd.schedule)
        real, fake = (each(x_t, one.matching.t, one.condition) for each in (teacher, critic))
        each = ((real - fake) * (real - x0 - 1.2 * (real - fake))).mean((1, 2, 3))
        return (each / (x0 - real).abs().mean((1, 2, 3)).detach()).mean()

    x0.requires_grad_()
    (expected,) = torch.autograd.grad(loss(x0), x0)
    found, _ = dmd._sample_gradient(MATCHING_ALONE, teacher, critic, x0.detach(), one)
    torch.testing.assert_close(found, expected)
