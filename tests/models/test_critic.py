"""The critic: of several steps it is told which one gave the images; what a GAN's head reads."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from pipeline.config import NetworkConfig, TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.critic import Critic
from pipeline.models.denoiser import blank
from pipeline.models.families.edm import new_unet
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_teacher
from tests.fixtures.methods import new_method
from tests.fixtures.tiny_models import save_tiny

SHAPE = (1, 8, 8)


def unet() -> UNet2D:
    network = NetworkConfig(channels=(8, 16), attention=(False, False), norm_groups=4)
    return new_unet(network, SHAPE, None, seed=1)


def test_exits_are_alike_at_first_and_apart_later():
    bare = unet()
    critic = Critic(unet(), (), exits=3)
    x_t, t = torch.randn(2, *SHAPE), torch.tensor([80.0, 0.5])
    for each in (0, 1, 2, None):
        assert torch.equal(critic(x_t, t, Condition(), step_index=each), bare(x_t, t, Condition()))
    with torch.no_grad():
        critic.exits.weight[2] = 1.0
    assert torch.equal(critic(x_t, t, Condition(), step_index=1), bare(x_t, t, Condition()))
    assert not torch.equal(critic(x_t, t, Condition(), step_index=2), bare(x_t, t, Condition()))
    assert torch.equal(critic(x_t, t, Condition()), critic(x_t, t, Condition(), step_index=2))


def test_each_exit_gets_a_score_of_its_own():
    """Where one step gives dark images and the next bright ones, the critic knows both."""
    steps = FewStepSampler(EDM(), (80.0, 5.0))
    dmd = new_method(SHAPE, sampler=steps, critic={"range": (0.3, 0.9)})
    critic = Critic(unet(), (), exits=2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(0)
    for number in range(120):
        microbatch = dmd.draw(16, rng, step_index=number % 2)
        samples = torch.full((16, *SHAPE), (-0.7, 0.7)[microbatch.step_index])
        optimizer.zero_grad()
        dmd.critic_loss(critic, samples, microbatch).total.backward()
        optimizer.step()
    noise = 80.0 * torch.randn(64, *SHAPE, generator=rng)
    with torch.no_grad():
        dark, bright = (
            critic(noise, torch.full((64,), 80.0), Condition(), step_index=each) for each in (0, 1)
        )
    assert dark.mean() < -0.5 and bright.mean() > 0.5


@pytest.mark.parametrize(
    ("version", "kind"),
    [("sd1", UNet2DConditionModel), ("sdxl", UNet2DConditionModel), ("ddim", UNet2DModel)],
)
def test_without_a_middle_the_last_block_down_is_judged(tmp_path: Path, version, kind) -> None:
    """As in tiny-sd and the like, which were made small."""
    folder = save_tiny(tmp_path / "model", version)
    torch.manual_seed(0)
    config = {**kind.load_config(folder / "unet"), "mid_block_type": None}
    kind.from_config(config).save_pretrained(folder / "unet")
    teacher = load_teacher(TeacherConfig(output=str(folder)))
    critic, inputs, last = Critic(teacher), blank(teacher, 2), []
    inputs.x_t.normal_()
    teacher.unet.down_blocks[-1].register_forward_hook(lambda *call: last.append(call[2][0]))
    with torch.no_grad():
        logits = critic.logits(inputs)
        x0, again = critic.denoise_and_logits(inputs)
        assert torch.equal(x0, teacher(*inputs)) and torch.equal(again, logits)
        assert torch.equal(critic.heads[0](last[0]), logits[:, 0])
