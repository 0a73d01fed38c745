"""What is said of a solver is so: the scheduler's own steps, by diffusers itself."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.noise import EDM, Flow, Schedule
from pipeline.diffusion.solver import SOLVERS
from pipeline.models.schedulers import KNOWN, completed, read_scheduler
from pipeline.models.solver_notes import same_solver, solver_note
from pipeline.utils.errors import UserError
from tests.models.test_schedulers import SOLVERS_OWN, signature

pytestmark = pytest.mark.filterwarnings("ignore")

VALUES: dict[str, list[Any]] = {
    **dict.fromkeys(("clip_sample", "thresholding", "stochastic_sampling"), [True, False]),
    **dict.fromkeys(("lower_order_final", "euler_at_final", "predict_x0"), [True, False]),
    **dict.fromkeys(("skip_prk_steps", "clip_denoised"), [True, False]),
    **dict.fromkeys(("clip_sample_range", "sample_max_value"), [2.0]),
    **{"dynamic_thresholding_ratio": [0.5], "variance_type": ["fixed_large"], "s_noise": [0.5]},
    **{"solver_order": [1, 2, 3], "solver_type": ["midpoint", "heun"], "timestep_scaling": [3.0]},
    **{"algorithm_type": ["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"]},
    **{"solver_p": [None], "disable_corrector": [[0, 1]], "tau_func": [None]},
    **{"predictor_order": [1], "corrector_order": [1], "original_inference_steps": [25]},
    **{
        "prediction_type": ["v_prediction"],
        "timestep_spacing": ["leading", "linspace", "trailing"],
    },
}
"""By key, what a file may say; of all of `SOLVERS_OWN`, and two that are read."""
BAR = 1e-4
Reading = tuple[Schedule, str]


def denoised(x_t: Tensor, sigma: float | Tensor) -> Tensor:
    """A curved denoiser, of x_t at variance 1; its images leave [-1, 1]."""
    return 1.4 * torch.tanh(x_t) + 0.2 * torch.sin(2 * x_t + sigma)


def x0_of(x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    if isinstance(schedule, EDM):
        return denoised(x_t / (1 + t**2).sqrt(), t / (1 + t))
    return denoised(x_t, schedule.sigma(t))


def network_of(scheduler: Any, read: Reading, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """What a network gives that predicts an x0."""
    schedule, prediction = read
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if isinstance(schedule, EDM):
        to_x0 = getattr(scheduler, "precondition_outputs", lambda _, output, __: output)
        none, one = (to_x0(x_t, torch.full_like(x_t, each), t) for each in (0.0, 1.0))
        return (x0 - none) / (one - none)
    if isinstance(schedule, Flow):
        return (x_t - x0) / sigma
    eps = (x_t - alpha * x0) / sigma
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0}[prediction]


def own_steps(file: dict[str, Any], noise: Tensor, steps: int, seed: int = 0) -> Tensor:
    """The end of the scheduler's way from a noise."""
    config, read = completed(file), read_scheduler(file, tokens=64)
    schedule = read[0]
    scheduler = getattr(diffusers, config.pop("_class_name"))(**config)
    scheduler.set_timesteps(steps)
    sampling = {"generator": torch.Generator().manual_seed(seed)}
    if "generator" not in inspect.signature(scheduler.step).parameters:
        sampling = {}
    x_t = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for place, time in enumerate(scheduler.timesteps):
        t, seen = time.double(), x_t
        if isinstance(schedule, EDM | Flow):
            t = scheduler.sigmas[place].double()
        else:
            seen = scheduler.scale_model_input(x_t, time)
        output = network_of(scheduler, read, seen, x0_of(seen, t, schedule), t)
        x_t = scheduler.step(output, time, x_t, **sampling).prev_sample
    return x_t


def files(name: str) -> list[dict[str, Any]]:
    """Of a class, as its solver is ours or near it, and with each of its keys changed."""
    plain = {"_class_name": name, "clip_sample": False, "skip_prk_steps": True}
    plain["num_train_timesteps"] = 250  # which 12 steps do not divide
    keys, flow = sorted(signature(name) & VALUES.keys()), []
    if name == "DPMSolverMultistepScheduler":
        flow = [{"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}]
    changes = [{}, *({key: value} for key in keys for value in VALUES[key]), *flow]
    return [plain | change for change in changes]


def test_all_keys_of_solvers_are_tried() -> None:
    assert SOLVERS_OWN <= VALUES.keys()


@pytest.mark.parametrize("steps", [10, 12])
@pytest.mark.parametrize("name", KNOWN)
def test_a_solver_that_is_said_to_be_the_same_is_and_no_other(name: str, steps: int) -> None:
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64)
    for file in files(name):
        try:
            schedule, _ = read_scheduler(file, tokens=64)
            made = own_steps(file, noise, steps)
        except (UserError, NotImplementedError):  # diffusers has no such thing
            continue
        same, why = same_solver(completed(file), steps)
        if why == "is stochastic":
            assert (made - own_steps(file, noise, steps, seed=1)).abs().max() > 0.01, file
            continue
        times = schedule.times(steps)
        for solver, solve in SOLVERS.items():
            ours = solve(lambda x_t, t: x0_of(x_t, t, schedule), noise, schedule, times)  # noqa: B023
            difference = float((ours - made).abs().max() / made.std())
            assert (difference < BAR) == (solver == same), (file, solver, difference)


def test_one_line_says_it() -> None:
    def note(solver: str, **file: Any) -> str:
        return solver_note(
            completed({"_class_name": "DPMSolverMultistepScheduler"} | file), solver, 9
        )

    own = "; the folder's DPMSolverMultistepScheduler"
    assert note("dpmpp_2m") == f"pairs.solver dpmpp_2m{own} takes the same steps"
    assert note("euler") == (
        f"pairs.solver euler{own} takes those of dpmpp_2m: set that for its own images"
    )
    assert note("dpmpp_2m", algorithm_type="sde-dpmsolver++") == (
        f"pairs.solver dpmpp_2m{own} (sde-dpmsolver++) is stochastic: pairs follow the ODE instead"
    )
    assert note("plms", _class_name="PNDMScheduler", skip_prk_steps=False) == (
        "pairs.solver plms; the folder's PNDMScheduler begins with Runge-Kutta steps "
        "(skip_prk_steps: false): pairs follow the ODE instead"
    )
