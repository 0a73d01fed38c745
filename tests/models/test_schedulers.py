"""Noise schedules are those of diffusers' scheduler configs, or refused by name."""

import inspect
import json
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from pipeline.diffusion.noise import EDM, VP, Flow
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.schedulers import KNOWN, completed, read_scheduler
from pipeline.models.student_scheduler import student_scheduler
from pipeline.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # thousands, of NumPy


def saved(scheduler: Any, **changes: Any) -> dict[str, Any]:
    """The content of its `scheduler_config.json`."""
    return {**json.loads(scheduler.to_json_string()), **changes}


def test_the_schedule_of_edm_is_read() -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=10.0, sigma_data=0.3, rho=5.0)
    assert read_scheduler(saved(scheduler)) == (EDM(0.01, 10.0, 0.3, 5.0), "edm")


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_the_schedule_of_vp_is_read(kind: Any) -> None:
    scheduler = kind(num_train_timesteps=50, beta_schedule="linear", beta_end=0.1)
    schedule, prediction = read_scheduler(saved(scheduler))
    assert isinstance(schedule, VP) and prediction == "epsilon"
    assert torch.equal(schedule.alphas_cumprod, scheduler.alphas_cumprod)


def test_the_spacing_of_stable_diffusion_is_read() -> None:
    """Leading, one on, and its last step ends at the table's first level."""
    scheduler = DDIMScheduler(steps_offset=1, set_alpha_to_one=False)
    schedule, _ = read_scheduler(saved(scheduler))
    scheduler.set_timesteps(20)
    assert schedule.times(20).tolist() == [*scheduler.timesteps.tolist(), 0]


def test_the_schedule_of_flow_is_read() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=500, shift=3.0)
    assert read_scheduler(saved(scheduler)) == (Flow(3.0, 500), "flow_prediction")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler", "snr": 0.15}, "ScoreSdeVeScheduler is not"),
        ({}, "without a class name"),
        (
            saved(EDMEulerScheduler(), sigma_schedule="wild"),
            "EDMEulerScheduler: diffusers does not take it: .*wild",
        ),
        (
            saved(DPMSolverMultistepScheduler(), final_sigmas_type="wild"),
            "DPMSolverMultistepScheduler: final_sigmas_type 'wild' is not supported; known is zero "
            "and sigma_min",
        ),
        (
            saved(EulerDiscreteScheduler(final_sigmas_type="sigma_min")),
            "EulerDiscreteScheduler: final_sigmas_type 'sigma_min' is not .* set it to zero",
        ),
        (saved(DDPMScheduler(), prediction_type="wild"), "DDPMScheduler: prediction_type 'wild'"),
        (saved(DDPMScheduler(), beta_schedule="wild"), "DDPMScheduler: .*wild"),
        (
            saved(DDIMScheduler(rescale_betas_zero_snr=True)),
            "DDIMScheduler: rescale_betas_zero_snr with prediction_type epsilon is not",
        ),
        (
            saved(EDMEulerScheduler(), prediction_type="sample"),
            "EDMEulerScheduler: prediction_type 'sample'",
        ),
        (
            saved(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
            "FlowMatchEulerDiscreteScheduler: use_dynamic_shifting",
        ),
        (
            saved(FlowMatchEulerDiscreteScheduler(), use_beta_sigmas=True, use_karras_sigmas=True),
            "FlowMatchEulerDiscreteScheduler: diffusers does not take it: Only one of",
        ),
        (
            saved(EulerDiscreteScheduler(use_karras_sigmas=True, sigma_max=700.0)),
            "EulerDiscreteScheduler: sigma_max 700 is not .* from 0.0100.* to 157.407; set it to "
            "157.407 or null",
        ),
        (
            saved(DPMSolverMultistepScheduler(use_karras_sigmas=True, use_flow_sigmas=True)),
            "DPMSolverMultistepScheduler: use_karras_sigmas with use_flow_sigmas is not supported",
        ),
        *(
            (
                saved(kind(use_flow_sigmas=True, final_sigmas_type="sigma_min")),
                "final_sigmas_type 'sigma_min' with use_flow_sigmas is not .* set it to zero",
            )
            for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler)
        ),
        *(
            (saved(DDPMScheduler(), timestep_spacing=each), "timestep_spacing .* is unknown; set")
            for each in ("wild", None)
        ),
        (saved(DDPMScheduler(), trained_betas=[]), "trained_betas has 0 values"),
    ],
)
def test_what_is_not_known_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_scheduler(config)


ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
@pytest.mark.parametrize("start", [999.0, 399.0])
def test_zero_terminal_snr_is_the_schedulers_own_and_the_students(kind: Any, start: float) -> None:
    """Exactly 0 for some of them, 2^-24 for others."""
    scheduler = kind(**ZERO_SNR)
    schedule, _ = read_scheduler(saved(scheduler))
    assert isinstance(schedule, VP)
    assert torch.equal(schedule.alphas_cumprod, scheduler.alphas_cumprod)
    student = student_scheduler(saved(scheduler), FewStepSampler(schedule, (start,)))
    table = scheduler.alphas_cumprod[: int(start) + 1]
    torch.testing.assert_close(student.alphas_cumprod, table, atol=0, rtol=1e-5)
    read, _ = read_scheduler(saved(student))
    assert isinstance(read, VP) and torch.equal(read.alphas_cumprod, student.alphas_cumprod)


def signature(name: str) -> set[str]:
    """Names of the settings of a class."""
    return {*inspect.signature(getattr(diffusers, name).__init__).parameters} - {"self"}


WITH_BETAS = [name for name in KNOWN if "beta_schedule" in signature(name)]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHORT = {"num_train_timesteps": 100, "beta_start": 0.0085, "beta_end": 0.12}
"""As much noise in a tenth of the steps, for classes that take long to be made."""
SPACED: tuple[dict[str, Any], ...] = (
    {},
    *({f"use_{kind}": True} for kind in ("karras_sigmas", "exponential_sigmas", "beta_sigmas")),
    {"use_lu_lambdas": True},
    {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
    {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
    {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"},
    {"final_sigmas_type": "sigma_min"},
    {"lambda_min_clipped": -2.0},
    {"original_inference_steps": 30},
)
"""Settings with which a class chooses its steps, where it has them."""


def own_times(scheduler: Any) -> Tensor:
    """Each of its times once, without those that it makes between two steps."""
    times = scheduler.timesteps.double()
    match scheduler:
        case HeunDiscreteScheduler():
            return torch.cat([times[:1], times[1::2]])
        case KDPM2DiscreteScheduler() | KDPM2AncestralDiscreteScheduler():
            return torch.cat([times[:1], times[2::2]])
        case PNDMScheduler():
            return torch.unique_consecutive(times)
    return times


def own_levels(scheduler: Any) -> Tensor | None:
    """sigma / alpha at each of its times and at its end, where it has them."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None or scheduler.order == 1:
        return sigmas
    return torch.cat([sigmas[:1], sigmas[1::2]])[: len(own_times(scheduler)) + 1]


@pytest.mark.parametrize("steps", [4, 18])
@pytest.mark.parametrize(
    ("name", "more", "spacing"),
    [
        (name, more, spacing)
        for name in WITH_BETAS
        for more in SPACED
        if more.keys() <= signature(name)
        and (name, more.get("final_sigmas_type")) != ("EulerDiscreteScheduler", "sigma_min")
        for spacing in ("linspace", "leading", *(() if more else ("trailing", None)))
    ],
    ids=lambda each: "-".join(each) if isinstance(each, dict) else each,
)
def test_a_solver_steps_where_the_scheduler_does(
    name: str, more: dict[str, Any], spacing: str | None, steps: int
) -> None:
    """From the same noise, to the same end; without a word, by the habit of its class."""
    file = {"_class_name": name, "num_train_timesteps": 1000, "steps_offset": 1, **SD, **more}
    if name.startswith("KDPM2"):
        file |= SHORT
    file |= {"timestep_spacing": spacing} if spacing else {}
    known = signature(name)
    if "skip_prk_steps" in known:
        file["skip_prk_steps"] = True
    scheduler = getattr(diffusers, name).from_config(file)
    schedule, _ = read_scheduler(file)
    assert isinstance(schedule, VP)
    scheduler.set_timesteps(steps)
    times = schedule.times(steps)
    told = schedule.told(times[:-1].float()).double()  # as a network in float32 is given it
    torch.testing.assert_close(told, own_times(scheduler), rtol=1e-6, atol=0)
    levels = schedule.sigma(times) / schedule.alpha(times)
    if (expected := own_levels(scheduler)) is not None:
        bar = 1e-3 if "beta_schedule" in more else 1e-5  # the cosine's last level is 34 times more
        torch.testing.assert_close(levels, expected.double(), rtol=bar, atol=0)
    end = getattr(scheduler, "final_alpha_cumprod", None)
    if end is None and hasattr(scheduler, "sigmas"):
        end = 1 / (1 + float(scheduler.sigmas[-1]) ** 2)
    assert schedule.alpha(times)[-1].item() ** 2 == pytest.approx(float(1 if end is None else end))
    starts = float(scheduler.init_noise_sigma)
    if starts != 1:  # in sigma / alpha
        starts *= schedule.alpha(times)[0].item()
    assert schedule.solver_sigma(times)[0].item() == pytest.approx(starts, rel=1e-5)
    assert schedule.init_noise_sigma(times)[0] == 1, "a student's noise is the prior"


EDM_STEPS: list[Any] = [
    EDMEulerScheduler(sigma_schedule="exponential", sigma_max=120.0),
    EDMEulerScheduler(final_sigmas_type="sigma_min"),
    EDMDPMSolverMultistepScheduler(sigma_schedule="exponential", final_sigmas_type="sigma_min"),
    *(
        EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            timestep_spacing=spacing,
            **more,
        )
        for more in SPACED
        if more.keys() <= signature("EulerDiscreteScheduler")
        for spacing in ("linspace", "leading")
    ),
]


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("scheduler", EDM_STEPS, ids=lambda each: type(each).__name__)
def test_a_solver_of_edm_steps_where_the_scheduler_does(scheduler: Any, steps: int) -> None:
    schedule, _ = read_scheduler(saved(scheduler))
    assert isinstance(schedule, EDM)
    scheduler.set_timesteps(steps)
    times = schedule.times(steps)
    torch.testing.assert_close(times.float(), scheduler.sigmas)
    within = (times[:-1] >= schedule.sigma_min * 0.999) & (times[:-1] <= schedule.start * 1.001)
    assert within.all(), "where it learns"
    told = times[:-1].float().log() / 4
    torch.testing.assert_close(told, scheduler.timesteps)
    if isinstance(scheduler, EulerDiscreteScheduler):
        starts = replace(schedule, image_variance=1.0).solver_sigma(times)[0]
        assert starts.item() == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-6)


@pytest.mark.parametrize("own", ["linspace", "trailing"])
@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize(
    "more",
    [*({f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta"))]
    + [{"shift_terminal": 0.1}, {"shift_terminal": 0.1, "use_karras_sigmas": True}],
    ids=lambda more: "-".join(more),
)
def test_a_solver_of_flows_steps_where_the_scheduler_does(
    more: dict[str, Any], by_size: bool, own: str
) -> None:
    """With the scheduler's times ("linspace", SD3's) or those that Flux's pipeline gives it."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=by_size, **more)
    schedule, _ = read_scheduler(saved(scheduler), tokens=256)
    mu = 0.5 if by_size else None
    if own == "trailing":
        scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    else:
        scheduler.set_timesteps(4, mu=mu)
    times = schedule.times(4, own if own == "trailing" else None)
    torch.testing.assert_close(times.float(), scheduler.sigmas)
    student = student_scheduler(saved(scheduler), FewStepSampler(schedule, (1.0,)))
    student.set_timesteps(1, mu=mu)
    assert student.sigmas.tolist() == [1, 0], "its one step goes all the way"


READ = {
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one"),
    *("rescale_betas_zero_snr", "sigma_min", "sigma_max", "sigma_data", "rho"),
    *("shift", "flow_shift", "use_flow_sigmas", "use_dynamic_shifting", "time_shift_type"),
    *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("final_sigmas_type", "sigma_schedule", "timestep_type", "lambda_min_clipped"),
    *("original_inference_steps", "shift_terminal"),
}
REFUSED = {"invert_sigmas": True, "interpolation_type": "log_linear"}
SOLVERS_OWN = {
    *("clip_sample", "clip_sample_range", "clip_denoised", "thresholding", "sample_max_value"),
    *("dynamic_thresholding_ratio", "variance_type", "s_noise", "solver_order", "solver_type"),
    *("algorithm_type", "lower_order_final", "euler_at_final", "predict_x0", "solver_p"),
    *("disable_corrector", "predictor_order", "corrector_order", "tau_func", "skip_prk_steps"),
    *("timestep_scaling", "stochastic_sampling"),
}
"""What the scheduler's own solver does between its times: it says nothing of the noise."""


@pytest.mark.parametrize("name", KNOWN)
def test_every_setting_is_read_or_refused_or_the_solvers_own(name: str) -> None:
    """A new one in a newer diffusers is none of them, and fails here."""
    known = signature(name)
    assert known <= READ | REFUSED.keys() | SOLVERS_OWN
    for key in known & REFUSED.keys():
        file = {"_class_name": name, key: REFUSED[key]}
        with pytest.raises(UserError, match=f"{name}: {key} "):
            read_scheduler(file, tokens=64)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("value", ["x", True, [1.0], {}])
def test_what_must_be_a_number_is_one(name: str, value: Any) -> None:
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    numbers = [key for key, each in parameters.items() if type(each.default) in (int, float)]
    assert "num_train_timesteps" in numbers
    for key in numbers:
        with pytest.raises(UserError, match=f"{name}: {key} is .* not a number"):
            read_scheduler({"_class_name": name, key: value}, tokens=64)


CHANGES: dict[str, Any] = {
    **{"num_train_timesteps": 50, "beta_start": 0.001, "beta_end": 0.13, "steps_offset": 3},
    **{"beta_schedule": "squaredcos_cap_v2", "trained_betas": [0.1] * 100},
    **{"prediction_type": "sample", "timestep_spacing": "trailing"},
    **{"rescale_betas_zero_snr": True, "sigma_min": 0.1, "sigma_max": 50.0, "sigma_data": 0.3},
    **{"rho": 5.0, "use_dynamic_shifting": False, "time_shift_type": "linear"},
    **{"base_shift": 0.4, "max_shift": 1.3, "base_image_seq_len": 64, "max_image_seq_len": 9999},
    **{"use_karras_sigmas": True, "use_exponential_sigmas": True, "use_beta_sigmas": True},
    **{"use_lu_lambdas": True, "lambda_min_clipped": -2.0, "original_inference_steps": 30},
    **{"final_sigmas_type": "sigma_min", "sigma_schedule": "exponential", "shift_terminal": 0.1},
    **{"timestep_type": "continuous"},
}
"""Of what is read, another value than that of `whole`."""
ELSEWHERE = {"use_dynamic_shifting", "time_shift_type", "shift_terminal"}
"""Of schedulers with betas they say something only with flow sigmas."""


def whole(name: str) -> dict[str, Any]:
    """A file in which all that can say something does."""
    file = {"_class_name": name, "timestep_spacing": "leading", **SHORT}
    more = {"prediction_type": "v_prediction"}
    return file | (more if name in WITH_BETAS else {"use_dynamic_shifting": True})


def reading(file: dict[str, Any]) -> Any:
    """All that is read, as numbers; a refusal as its text."""
    try:
        schedule, prediction = read_scheduler(file, tokens=2048)
    except UserError as error:
        return str(error)
    at = schedule.time_from_fraction(torch.linspace(0.1, 1, 7, dtype=torch.float64))
    data = getattr(schedule, "sigma_data", None)
    return prediction, data, schedule.times(8).tolist(), schedule.alpha(at).tolist()


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_read_changes_the_reading(name: str) -> None:
    keys = signature(name) & CHANGES.keys()
    if name in WITH_BETAS:
        keys -= ELSEWHERE
    elif "sigma_data" in keys:
        keys -= {"num_train_timesteps"}
    if "original_inference_steps" in keys:  # these alone make its steps
        keys -= {"timestep_spacing", "steps_offset"}
    for key in sorted(keys):
        taken = key in ("sigma_min", "sigma_max") and name in WITH_BETAS
        file = whole(name) | ({"use_karras_sigmas": True} if taken else {})
        assert reading(file | {key: CHANGES[key]}) != reading(file), key


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_class_does_not_know_is_ignored_and_what_is_left_out_is_its_own(name: str) -> None:
    stray = {"set_alpha_to_one": False, "rescale_betas_zero_snr": True, "use_karras_sigmas": True}
    file = {"_class_name": name, **{k: v for k, v in stray.items() if k not in signature(name)}}
    own = getattr(diffusers, name)()
    assert completed(file) == completed(saved(own)) == completed({"_class_name": name})
    schedule, _ = read_scheduler(file, tokens=64)
    if isinstance(schedule, VP):
        assert torch.equal(schedule.alphas_cumprod, own.alphas_cumprod)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_times_of_sana_are_its_solvers(steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    schedule, prediction = read_scheduler(saved(scheduler))
    assert prediction == "flow_prediction" and schedule.start == 1.0
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(schedule.times(steps).float(), scheduler.sigmas)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_follows_the_size_of_the_image(kind: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    schedule, _ = read_scheduler(saved(scheduler), tokens=1024)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    torch.testing.assert_close(schedule.times(4, "trailing").float(), scheduler.sigmas)
    scheduler.set_timesteps(4, mu=mu)
    torch.testing.assert_close(schedule.times(4).float(), scheduler.sigmas)
    wider, _ = read_scheduler(saved(scheduler), tokens=4096)
    assert wider.shift > schedule.shift


def test_a_flow_students_fresh_noise_is_that_of_two_schedulers() -> None:
    """Ours is the one that pipelines declare; diffusers' LCM for flows takes the same steps."""
    times = (1.0, 0.7, 0.3)
    ours = student_scheduler({}, FewStepSampler(Flow(3.0), times))
    ends = []
    for scheduler in (ours, diffusers.FlowMatchLCMScheduler(1000)):
        torch.manual_seed(0)
        scheduler.set_timesteps(sigmas=list(times))
        x_t = torch.randn(2, 4, 8, 8)
        for time in scheduler.timesteps:
            x_t = scheduler.step(x_t.sin(), time, x_t).prev_sample
        ends.append(x_t)
    assert torch.equal(*ends)
