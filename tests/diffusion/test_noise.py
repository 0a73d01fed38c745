"""Noise schedules: their factors, their times, and the ones of diffusers."""

import diffusers
import numpy as np
import pytest
import torch

from pipeline.diffusion.noise import EDM, VP, Flow, diffuse, expand
from pipeline.diffusion.spacing import OwnSteps


def table(schedule: str = "linear", zero_snr: bool = False) -> torch.Tensor:
    betas = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}[schedule]
    scheduler = diffusers.DDPMScheduler(
        beta_start=betas[0],
        beta_end=betas[1],
        beta_schedule=schedule,
        rescale_betas_zero_snr=zero_snr,
    )
    return scheduler.alphas_cumprod


SCHEDULES = [EDM(), VP(table()), VP(table("scaled_linear", zero_snr=True)), Flow(shift=3.0)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_times_run_down_from_the_start_to_the_clean_image(schedule):
    times = schedule.times(10, None if isinstance(schedule, EDM) else "trailing")
    assert times.shape == (11,) and times.dtype == torch.float64
    assert times[0] == pytest.approx(schedule.start) and (times.diff() < 0).all()
    assert schedule.alpha(times)[-1] == 1 and schedule.sigma(times)[-1] == 0
    assert (schedule.sigma(times).diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_fractions_run_up_to_the_start(schedule):
    at = schedule.time_from_fraction(torch.linspace(0, 1, 11, dtype=torch.float64))
    assert (at.diff() > 0).all() and at[-1] == pytest.approx(schedule.start)
    back = schedule.time_from_fraction(schedule.fraction_from_time(at))
    torch.testing.assert_close(back, at, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_ode_is_the_same_for_all(schedule):
    """With x_t = alpha x0 + sigma eps and y = x_t/scale: dy/ds = (y - x0)/s, by differences."""
    clean, eps = torch.tensor([0.7, -1.3], dtype=torch.float64)
    times = schedule.time_from_fraction(torch.tensor([0.5], dtype=torch.float64))
    near = torch.cat([times * (1 - 1e-6), times * (1 + 1e-6)])
    y = (schedule.alpha(near) * clean + schedule.sigma(near) * eps) / schedule.scale(near)
    s = schedule.sigma(near) / schedule.scale(near)
    slope = (y.mean() - clean) / s.mean()
    assert (y.diff() / s.diff()).item() == pytest.approx(slope.item(), rel=1e-5)


def test_vp_is_the_table_and_keeps_the_variance():
    abar = table("scaled_linear")
    t = torch.arange(1000, dtype=torch.float64)
    vp = VP(abar)
    assert torch.allclose(vp.alpha(t), abar.double().sqrt(), rtol=1e-12)
    assert torch.allclose(vp.alpha(t) ** 2 + vp.sigma(t) ** 2, torch.ones_like(t), rtol=1e-12)
    assert vp.alpha(t.float()).dtype == torch.float32


def test_zero_snr_is_noise_alone_at_the_last_time_and_nowhere_else():
    vp = VP(table("scaled_linear", zero_snr=True))
    t = torch.tensor([999.0, 998.0, 0.0, -1.0], dtype=torch.float64)
    assert vp.alpha(t)[0] == 0 and (vp.alpha(t)[1:] > 0).all()
    assert vp.sigma(t)[0] == 1 and vp.sigma(t)[-1] == 0
    assert torch.allclose(vp.alpha(t[1:3]), vp.alphas_cumprod[[998, 0]].double().sqrt(), rtol=1e-12)
    assert vp.scale(t).isfinite().all() and (vp.scale(t) > 0).all()


@pytest.mark.parametrize("steps", [1, 4, 18, 30, 50, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_vp_times_are_those_of_ddim(steps, spacing):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(steps)
    assert VP(table(), spacing).times(steps)[:-1].tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_vp_times_are_those_of_euler(spacing):
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(20)
    times = VP(table(), spacing, steps_offset=1).times(20)
    assert torch.allclose(times[:-1].float(), scheduler.timesteps, rtol=1e-6)


def test_vp_may_end_at_the_first_position_of_its_table():
    vp = VP(table(), steps_offset=1, clean_end=False)
    assert vp.times(2).tolist() == [501, 1, 0]
    assert vp.sigma(vp.times(2))[-1] == pytest.approx((1 - table()[0].item()) ** 0.5)


@pytest.mark.parametrize("steps", [1, 5, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_times_are_those_of_diffusers(steps, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    times = Flow(shift).times(steps)
    assert torch.allclose(times.float(), scheduler.sigmas, rtol=1e-6)
    assert torch.allclose(times[:-1].float() * 1000, scheduler.timesteps, rtol=1e-6)


def test_flow_whole_times_are_those_of_cogview4():
    """At every number of steps: next to a whole number the last bit decides."""
    schedule = Flow(spacing="whole")
    for steps in range(1, 1001):
        theirs = np.linspace(1000, 1.0, steps).astype(np.int64) / 1000
        assert schedule.times(steps).tolist() == [*theirs.tolist(), 0.0]


def test_flow_trailing_times_are_those_of_flux():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    assert torch.allclose(Flow(3.0).times(4, "trailing").float(), scheduler.sigmas, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 18])
def test_edm_times_are_those_of_diffusers(steps):
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(steps)
    assert torch.allclose(EDM().times(steps).float(), scheduler.sigmas, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "steps", "spacing", "message"),
    [
        (EDM(), 0, None, "at least one step"),
        (EDM(), 5, "leading", "unknown spacing 'leading'"),
        (Flow(), 5, "karras", "knows linspace, trailing"),
        (VP(table()), 1001, None, "1001 steps"),
        (VP(table(), steps_offset=1), 1000, "leading", "do not fit a table of 1000"),
    ],
)
def test_impossible_times_are_refused(schedule, steps, spacing, message):
    with pytest.raises(ValueError, match=message):
        schedule.times(steps, spacing)


@pytest.mark.parametrize(
    ("rounding", "told"), [(0.5, [998.0, 401.0, 1.0]), (0.0, [997.0, 400.0, 1.0])]
)
def test_a_level_and_the_time_told_of_it_are_one_time(rounding, told):
    """998 minus a hair is 998 or 997, as the sampler has it; float32 keeps them apart."""
    at = torch.tensor([997.99999, 400.7, 1.2], dtype=torch.float64)
    near = VP(table(), OwnSteps(lambda steps: (at, at), rounding))
    levels = near.sigma(at) / near.alpha(at)
    own = OwnSteps(
        lambda steps: (torch.tensor(told).double(), torch.cat([levels, levels.new_zeros(1)])),
        rounding,
    )
    schedule = VP(table(), own)
    times = schedule.times(3)
    assert schedule.told(times[:-1].float()).tolist() == told and times[-1] == -1
    found = schedule.sigma(times) / schedule.alpha(times)
    torch.testing.assert_close(found[:-1], levels, rtol=1e-5, atol=0)
    assert torch.equal(schedule.sigma(times.ceil()), VP(table()).sigma(times.ceil()))


def test_diffuse_takes_one_time_a_sample():
    clean, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 1.0, 10.0])
    x_t = diffuse(clean, eps, t, EDM())
    assert torch.equal(x_t[1], clean[1] + eps[1])
    assert torch.equal(x_t[2], diffuse(clean, eps, torch.tensor(10.0), EDM())[2])
    assert expand(t, clean).shape == (3, 1, 1, 1)


def test_an_earlier_start_is_the_same_process():
    whole = VP(table())
    early = whole.until(399)
    t = torch.tensor([0.0, 12.5, 399.0], dtype=torch.float64)
    assert early.start == 399
    assert torch.equal(early.sigma(t), whole.sigma(t))
    with pytest.raises(ValueError, match="no time 1000 in a table of 1000"):
        whole.until(1000)
