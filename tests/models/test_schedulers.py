"""Noise schedules are those of diffusers' scheduler configs, or refused by name."""

import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
)
from torch import Tensor

from pipeline.diffusion.noise import EDM, VP, Flow
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.schedulers import KNOWN, completed, read_scheduler, student_scheduler
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
            saved(EDMEulerScheduler(sigma_schedule="exponential")),
            "EDMEulerScheduler: sigma_schedule 'exponential' is not supported; known is karras",
        ),
        (
            saved(DPMSolverMultistepScheduler(final_sigmas_type="sigma_min")),
            "DPMSolverMultistepScheduler: final_sigmas_type 'sigma_min' is not",
        ),
        (saved(DDPMScheduler(), prediction_type="wild"), "DDPMScheduler: prediction_type 'wild'"),
        (saved(DDPMScheduler(), beta_schedule="wild"), "DDPMScheduler: .*wild"),
        (
            saved(DDIMScheduler(rescale_betas_zero_snr=True)),
            "DDIMScheduler: rescale_betas_zero_snr with prediction_type epsilon is not",
        ),
        (
            saved(EDMEulerScheduler(), prediction_type="v_prediction"),
            "EDMEulerScheduler: prediction_type 'v_prediction'",
        ),
        (
            saved(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
            "FlowMatchEulerDiscreteScheduler: use_dynamic_shifting",
        ),
        (
            saved(FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)),
            "FlowMatchEulerDiscreteScheduler: shift_terminal 0.1 is not",
        ),
        (
            saved(EulerDiscreteScheduler(use_karras_sigmas=True)),
            "EulerDiscreteScheduler: use_karras_sigmas is not supported; set it to false",
        ),
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
DISTILLED = ("LCMScheduler", "TCDScheduler")


def own_times(scheduler: Any) -> Tensor:
    """Each of its times once, without those that it makes between two steps."""
    times = scheduler.timesteps.double()
    if isinstance(scheduler, KDPM2DiscreteScheduler | KDPM2AncestralDiscreteScheduler):
        return torch.cat([times[:1], times[2::2]])
    return torch.unique_consecutive(times)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", None])
@pytest.mark.parametrize("steps", [4, 18])
@pytest.mark.parametrize("name", [name for name in WITH_BETAS if name not in DISTILLED])
def test_a_solver_steps_where_the_scheduler_does(name: str, steps: int, spacing: str) -> None:
    """From the same noise, to the same end; without a word, by the habit of its class."""
    file = {"_class_name": name, "num_train_timesteps": 1000, "steps_offset": 1}
    file |= {"timestep_spacing": spacing} if spacing else {}
    known = signature(name)
    if "skip_prk_steps" in known:
        file["skip_prk_steps"] = True
    scheduler = getattr(diffusers, name).from_config(file)
    schedule, _ = read_scheduler(file)
    scheduler.set_timesteps(steps)
    times = schedule.times(steps)
    torch.testing.assert_close(times[:-1], own_times(scheduler), rtol=1e-6, atol=0)
    end = getattr(scheduler, "final_alpha_cumprod", None)
    if end is None and hasattr(scheduler, "sigmas"):
        end = 1 / (1 + float(scheduler.sigmas[-1]) ** 2)
    assert schedule.alpha(times)[-1].item() ** 2 == pytest.approx(float(1 if end is None else end))
    starts = float(scheduler.init_noise_sigma)
    if starts != 1:  # in sigma / alpha
        starts *= schedule.alpha(times)[0].item()
    assert schedule.solver_sigma(times)[0].item() == pytest.approx(starts, rel=1e-5)
    assert schedule.init_noise_sigma(times)[0] == 1, "a student's noise is the prior"


READ = {
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one"),
    *("rescale_betas_zero_snr", "sigma_min", "sigma_max", "sigma_data", "rho"),
    *("shift", "flow_shift", "use_flow_sigmas", "use_dynamic_shifting", "time_shift_type"),
    *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
}
REFUSED = {
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), True),
    **{"use_lu_lambdas": True, "invert_sigmas": True, "shift_terminal": 0.1},
    **{"final_sigmas_type": "sigma_min", "interpolation_type": "log_linear"},
    **{"timestep_type": "continuous", "sigma_schedule": "exponential", "lambda_min_clipped": -5.1},
}
SOLVERS_OWN = {
    *("clip_sample", "clip_sample_range", "clip_denoised", "thresholding", "sample_max_value"),
    *("dynamic_thresholding_ratio", "variance_type", "s_noise", "solver_order", "solver_type"),
    *("algorithm_type", "lower_order_final", "euler_at_final", "predict_x0", "solver_p"),
    *("disable_corrector", "predictor_order", "corrector_order", "tau_func", "skip_prk_steps"),
    *("original_inference_steps", "timestep_scaling", "stochastic_sampling"),
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


CHANGES: dict[str, Any] = {
    **{"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.03, "steps_offset": 3},
    **{"beta_schedule": "squaredcos_cap_v2", "trained_betas": [0.01] * 1000},
    **{"prediction_type": "sample", "timestep_spacing": "trailing"},
    **{"rescale_betas_zero_snr": True, "sigma_min": 0.1, "sigma_max": 50.0, "sigma_data": 0.3},
    **{"rho": 5.0, "use_dynamic_shifting": False, "time_shift_type": "linear"},
    **{"base_shift": 0.4, "max_shift": 1.3, "base_image_seq_len": 64, "max_image_seq_len": 9999},
}
"""Of what is read, another value than that of `whole`."""
ELSEWHERE = {"sigma_min", "sigma_max", "use_dynamic_shifting", "time_shift_type"}
"""Of schedulers with betas they say something only with spacings that are refused."""


def whole(name: str) -> dict[str, Any]:
    """A file in which all that can say something does."""
    file = {"_class_name": name, "timestep_spacing": "leading", "use_dynamic_shifting": True}
    return file | ({"prediction_type": "v_prediction"} if name in WITH_BETAS else {})


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
    before, keys = reading(whole(name)), signature(name) & CHANGES.keys()
    if name in WITH_BETAS:
        keys -= ELSEWHERE
    elif "sigma_data" in keys:
        keys -= {"num_train_timesteps"}
    for key in sorted(keys):
        assert reading(whole(name) | {key: CHANGES[key]}) != before, key


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
