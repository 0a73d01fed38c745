"""Solvers: equal to diffusers' schedulers, and of the order they claim."""

import diffusers
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.diffusion.solver import SOLVERS, PredictX0, dpmpp_2m, euler, heun, plms
from tests.fixtures.outputs import edm_from_x0, from_x0

Z = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MEAN = 0.3 * torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
STD = 0.5

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
ZERO_SNR = SD | {"rescale_betas_zero_snr": True}
SPACINGS = ["leading", "trailing", "linspace"]
FLOW_SPACINGS = ["linspace", "trailing", "multistep"]


class Gaussian:
    """The exact denoiser of N(MEAN, STD^2) for any schedule, and the exact end of its ODE."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.calls = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN.to(x_t) + gain * (x_t - alpha * MEAN.to(x_t))

    def solution(self, noise: Tensor, times: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(times), self.schedule.sigma(times)
        spread = (alpha**2 * STD**2 + sigma**2).sqrt()
        unit = (self.schedule.init_noise_sigma(times[0]) * noise - alpha[0] * MEAN) / spread[0]
        return alpha[-1] * MEAN + spread[-1] * unit


def curved(schedule: Schedule) -> PredictX0:
    """A denoiser that is linear neither in x_t nor in the noise."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * x_t / (2 + 4 * sigma**2) + 0.3 * torch.sin(x_t + sigma)

    return denoise


def table(options: dict) -> Tensor:
    return diffusers.DDPMScheduler(**options).alphas_cumprod


def raised(options: dict) -> Tensor:
    """With 2^-24 for an exact 0, as Euler's and DPM-Solver's schedulers have it."""
    return table(options).clamp(min=2**-24)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-5 of the sample's scale."""
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std()


def run(scheduler, x_t: Tensor, steps: int, output: PredictX0) -> Tensor:
    """Sample with diffusers from x_t; output is the network in the scheduler's own terms."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x_t, t)
        x_t = scheduler.step(output(x_t, t.double()), t, x_t).prev_sample
    return x_t


def times_of(scheduler, steps: int) -> Tensor:
    """The scheduler's own positions, then the clean image."""
    scheduler.set_timesteps(steps)
    return torch.cat([scheduler.timesteps.double(), torch.tensor([-1.0])])


@pytest.mark.parametrize("options", [LINEAR, SD, ZERO_SNR], ids=["linear", "SD", "zero SNR"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("clean_end", [True, False])
def test_euler_is_ddim(options, spacing, clean_end):
    vp = VP(table(options), spacing, steps_offset=1, clean_end=clean_end)
    scheduler = diffusers.DDIMScheduler(
        **options,
        timestep_spacing=spacing,
        steps_offset=1,
        set_alpha_to_one=clean_end,
        clip_sample=False,
        prediction_type="sample",
    )
    times, denoise = vp.times(20), curved(vp)
    theirs = run(scheduler, Z, 20, denoise)
    assert_same(euler(denoise, Z, vp, times), theirs)


def test_euler_is_ddim_at_every_position():
    """The one linspace that DDIM steps through without skipping."""
    options = LINEAR | {"num_train_timesteps": 40}
    vp = VP(table(options), "linspace")
    scheduler = diffusers.DDIMScheduler(
        **options, timestep_spacing="linspace", clip_sample=False, prediction_type="sample"
    )
    times, denoise = vp.times(40), curved(vp)
    theirs = run(scheduler, Z, 40, denoise)
    assert_same(euler(denoise, Z, vp, times), theirs)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("euler", diffusers.EulerDiscreteScheduler, LINEAR),
        ("euler", diffusers.EulerDiscreteScheduler, SD),
        ("euler", diffusers.EulerDiscreteScheduler, ZERO_SNR),
        ("heun", diffusers.HeunDiscreteScheduler, LINEAR),
        ("heun", diffusers.HeunDiscreteScheduler, SD),
    ],
)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_euler_and_heun_are_those_of_diffusers(name, kind, options, spacing):
    """diffusers steps y = x_t / alpha here, so the network scales it back."""
    scheduler = kind(**options, timestep_spacing=spacing, steps_offset=1, prediction_type="sample")
    vp = VP(raised(options), spacing, steps_offset=1)
    times, denoise = vp.times(20), curved(vp)
    y = Z / vp.alpha(times[0])
    theirs = run(scheduler, y, 20, lambda y, t: denoise(vp.alpha(t) * y, t))
    assert_same(SOLVERS[name](denoise, Z, vp, times), theirs)


@pytest.mark.parametrize("options", [LINEAR, SD, ZERO_SNR], ids=["linear", "SD", "zero SNR"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpmpp_2m_is_that_of_diffusers(options, spacing):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **options, timestep_spacing=spacing, steps_offset=1, prediction_type="sample"
    )
    vp = VP(raised(options))
    times, denoise = times_of(scheduler, 20), curved(vp)
    theirs = run(scheduler, Z, 20, denoise)
    assert_same(dpmpp_2m(denoise, Z, vp, times), theirs)


@pytest.mark.parametrize("options", [LINEAR, SD], ids=["linear", "SD"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("steps", "clean_end"), [(2, True), (5, True), (50, False), (1, True)])
def test_plms_is_pndm(options, spacing, steps, clean_end):
    vp = VP(table(options), spacing, steps_offset=1, clean_end=clean_end)
    scheduler = diffusers.PNDMScheduler(
        **options,
        skip_prk_steps=True,
        timestep_spacing=spacing,
        steps_offset=1,
        set_alpha_to_one=clean_end,
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    times, denoise = vp.times(steps), curved(vp)

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        return from_x0("epsilon", denoise(x_t, t), x_t, vp.alpha(t), vp.sigma(t))

    assert_same(plms(denoise, Z, vp, times), run(scheduler, Z, steps, eps))


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("euler", diffusers.EDMEulerScheduler()),
        ("dpmpp_2m", diffusers.EDMDPMSolverMultistepScheduler()),
    ],
)
def test_edm_solvers_are_those_of_diffusers(name, scheduler):
    edm = EDM()
    denoise = curved(edm)

    def output(x_t: Tensor, c_noise: Tensor) -> Tensor:
        sigma = (4 * c_noise).exp()
        return edm_from_x0(denoise(x_t, sigma), x_t, sigma, edm.sigma_data)

    theirs = run(scheduler, edm.sigma_max * Z, 18, output)
    assert_same(SOLVERS[name](denoise, Z, edm, edm.times(18)), theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_flow_match_euler(shift):
    flow = Flow(shift)
    denoise = curved(flow)

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - denoise(x_t, t / 1000)) / (t / 1000)

    theirs = run(diffusers.FlowMatchEulerDiscreteScheduler(shift=shift), Z, 28, velocity)
    assert_same(euler(denoise, Z, flow, flow.times(28)), theirs)


def test_heun_is_algorithm_1_of_edm():
    edm = EDM()
    times, denoise = edm.times(18), curved(edm)
    x = times[0] * Z
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        d = (x - denoise(x, t)) / t
        x_next = x + (t_next - t) * d
        if t_next > 0:
            d_next = (x_next - denoise(x_next, t_next)) / t_next
            x_next = x + (t_next - t) * (d + d_next) / 2
        x = x_next
    assert torch.allclose(heun(denoise, Z, edm, times), x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [(EDM(), 0.01), (VP(table(LINEAR)), 50), (Flow(), 0.05)],
    ids=["EDM", "VP", "Flow"],
)
@pytest.mark.parametrize(
    ("name", "ratio"), [("euler", 2), ("heun", 4), ("dpmpp_2m", 4), ("plms", 4)]
)
def test_twice_the_steps_divide_the_error(name, ratio, schedule, end):
    """By 2 for Euler, by 4 for second order, at a fixed end, against a Gaussian's exact ODE."""
    gaussian = Gaussian(schedule)
    errors = []
    for steps in (64, 128):
        times = torch.linspace(schedule.start, end, steps + 1, dtype=torch.float64)
        if isinstance(schedule, EDM):
            times = EDM(sigma_min=end).times(steps + 1)[:-1]
        sample = SOLVERS[name](gaussian, Z, schedule, times)
        errors.append((sample - gaussian.solution(Z, times)).square().mean().sqrt().item())
    assert errors[0] / errors[1] > 0.9 * ratio


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_are_counted_right(name, steps):
    for schedule in (EDM(), Flow(), VP(table(SD))):
        gaussian = Gaussian(schedule)
        SOLVERS[name](gaussian, Z, schedule, schedule.times(steps))
        assert gaussian.calls == SOLVERS[name].evaluations(steps)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("total", [7, 100])
@pytest.mark.parametrize("spacing", [*SPACINGS, "multistep-leading", "multistep-linspace"])
@pytest.mark.parametrize("clean_end", [True, False])
def test_any_number_of_steps_ends(name, total, spacing, clean_end):
    vp = VP(table(SD | {"num_train_timesteps": total}), spacing, clean_end=clean_end)
    for steps in (1, 2, total - 1, total):
        end = SOLVERS[name](curved(vp), Z, vp, vp.times(steps))
        assert end.isfinite().all(), steps


@pytest.mark.parametrize("steps", [1, 2, 999, 1000])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("schedule", [EDM(), *(Flow(3.0, spacing=each) for each in FLOW_SPACINGS)])
def test_any_number_of_steps_ends_without_a_table(name, steps, schedule):
    end = SOLVERS[name](curved(schedule), Z[:1], schedule, schedule.times(steps))
    assert end.isfinite().all()


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("place", [0, 1, 4, 9])
def test_a_time_that_comes_twice_changes_nothing(name, place):
    vp = VP(table(SD), "trailing")
    times = vp.times(10)
    twice = torch.cat([times[: place + 1], times[place:]])
    once, again = (SOLVERS[name](curved(vp), Z, vp, each) for each in (times, twice))
    assert_same(again, once)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_noise_sets_the_dtype_and_the_network_sees_it(name):
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert x_t.dtype == t.dtype == torch.float32 and t.shape == ()
        return x_t / 2

    vp = VP(table(ZERO_SNR), "trailing")
    single = SOLVERS[name](denoise, Z.float(), vp, vp.times(10))
    assert single.dtype == torch.float32 and single.isfinite().all()


def test_lone_times_are_refused():
    with pytest.raises(ValueError, match="at least two times"):
        euler(curved(EDM()), Z, EDM(), torch.tensor([80.0]))
