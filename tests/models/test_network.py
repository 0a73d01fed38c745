"""Adapters: our x0 is the one diffusers' own schedulers read from the same raw network."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    UNet2DModel,
)
from torch import Tensor

from pipeline.config import DistillConfig
from pipeline.diffusion.noise import EDM, VP, Schedule, expand
from pipeline.diffusion.prediction import PREDICTIONS, edm_inputs
from pipeline.models.families.edm import EDMUNet
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.schedulers import read_scheduler
from pipeline.training.method import build_method
from pipeline.utils.errors import UserError
from tests.families.builders.unet2d import unet
from tests.fixtures.denoise import denoise
from tests.fixtures.double import double
from tests.fixtures.outputs import edm_from_x0, from_x0
from tests.models.test_schedulers import saved


def raw_unet(classes: int | None = None) -> UNet2DModel:
    return unet(classes).double()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("sigma_data", [0.5, 0.3])
def test_edm_is_the_preconditioning_of_diffusers(sigma_data: float) -> None:
    scheduler = EDMEulerScheduler(sigma_data=sigma_data, sigma_max=60.0)
    unet = raw_unet(classes=4)
    schedule, prediction = read_scheduler(saved(scheduler))
    sigma = torch.tensor([0.002, 0.5, 3.0, 60.0], dtype=torch.float64)
    level, labels = sigma[:, None, None, None], torch.arange(4)
    x_t = images(4) * (1 + level)
    output = unet(
        scheduler.precondition_inputs(x_t, level),
        scheduler.precondition_noise(sigma),
        class_labels=labels,
    ).sample
    expected = scheduler.precondition_outputs(x_t, output, level)
    x0 = denoise(EDMUNet(unet, schedule, prediction), x_t, sigma, labels)
    torch.testing.assert_close(x0, expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_vp_is_the_original_sample_of_diffusers(kind: Any, prediction_type: str) -> None:
    """To 1e-5 of its size: diffusers holds its table in float32."""
    scheduler = kind(
        beta_schedule="scaled_linear", prediction_type=prediction_type, clip_sample=False
    )
    unet, x_t = raw_unet(), images(2)
    denoiser = UNet2D(unet, *read_scheduler(saved(scheduler)))
    scheduler.set_timesteps(1000)
    for t in (0, 123, 999):
        expected = scheduler.step(unet(x_t, t).sample, t, x_t).pred_original_sample
        x0 = denoise(denoiser, x_t, torch.full((2,), t, dtype=torch.float64))
        torch.testing.assert_close(x0, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(denoise(denoiser, x_t, torch.tensor(t, dtype=torch.float64)), x0)


@pytest.mark.parametrize("schedule", [EDM(), VP(DDPMScheduler().alphas_cumprod)])
def test_a_network_of_classes_needs_labels(schedule: Any) -> None:
    prediction = "edm" if isinstance(schedule, EDM) else "epsilon"
    kind = EDMUNet if isinstance(schedule, EDM) else UNet2D
    denoiser = kind(raw_unet(classes=3), schedule, prediction)
    with pytest.raises(UserError, match=r"no unconditional branch.*pairs\.guidance"):
        denoise(denoiser, images(2), torch.ones(2, dtype=torch.float64))


def own_error(network: UNet2D, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of what the backbone itself gives."""
    schedule, level = network.schedule, expand(t, x_t)
    if isinstance(schedule, EDM):
        scaled, c_noise = edm_inputs(x_t, level, schedule.sigma_data)
        meant = edm_from_x0(x0, x_t, level, schedule.sigma_data)
        meant = -meant if network.prediction == "edm_v" else meant
        return ((network.backbone(scaled, c_noise.flatten()).sample - meant) ** 2).mean()
    alpha, sigma = schedule.alpha(level), schedule.sigma(level)
    meant = from_x0(network.prediction, x0, x_t, alpha, sigma)
    return ((network.backbone(x_t, t).sample - meant) ** 2).mean()


ZERO_SNR = VP(DDPMScheduler(rescale_betas_zero_snr=True).alphas_cumprod)
OUTPUTS: list[tuple[str, Schedule]] = [
    *((kind, VP(DDPMScheduler().alphas_cumprod)) for kind in PREDICTIONS),
    *((kind, ZERO_SNR) for kind in PREDICTIONS if kind != "epsilon"),
    ("edm", EDM(sigma_data=0.4)),
    ("edm_v", EDM(sigma_data=1.0)),
]


@torch.no_grad()
@pytest.mark.parametrize(("prediction", "schedule"), OUTPUTS)
def test_a_critics_loss_is_the_error_of_what_its_network_gives(
    prediction: str, schedule: Schedule
) -> None:
    kind = EDMUNet if isinstance(schedule, EDM) else UNet2D
    network = kind(raw_unet(), schedule, prediction)
    settings = {"regression": {"weight": 0.0}, "regression_steps": 0}
    distill = DistillConfig.model_validate({**settings, "critic": {"range": (0.0, 1.0)}})
    method = build_method(distill, network, torch.device("cpu"))
    drawn = double(method.draw(8, torch.Generator().manual_seed(0)))
    ends = schedule.time_from_fraction(torch.tensor([0.02, 1.0], dtype=torch.float64))
    t = torch.cat([drawn.critic.t[2:], ends])
    microbatch = replace(drawn, critic=replace(drawn.critic, t=t))
    x0 = images(8)
    x_t = microbatch.critic.add_noise(x0, schedule)
    found = method.critic_loss(network, x0, microbatch).total
    torch.testing.assert_close(found, own_error(network, x0, x_t, t), rtol=1e-6, atol=0)
