"""Schedulers' files as models are released with, and as people change them: the pipeline's latents.

Keys and values are those on the Hub, without what only names a version.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_teacher
from tests.families.builders import BUILDERS
from tests.families.measures import close, refused

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OLD = {**SD, "set_alpha_to_one": False, "skip_prk_steps": True, "clip_sample": False}
EULER = {"_class_name": "EulerDiscreteScheduler", **SD}
V_ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
KARRAS = {"use_karras_sigmas": True, "timestep_spacing": "leading"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
BY_SIZE = {
    **{"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15},
    **{"shift": 3.0, "use_dynamic_shifting": True},
}
DPM = {
    "_class_name": "DPMSolverMultistepScheduler",
    **{"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    **{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    **{"lower_order_final": True, "euler_at_final": False, "lambda_min_clipped": -math.inf},
    **{"timestep_spacing": "linspace", "steps_offset": 0, "use_karras_sigmas": False},
}
FLOW_DPM = {**DPM, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}

UNIPC = {
    **{"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
    **{"use_flow_sigmas": True, "flow_shift": 7.0, "final_sigmas_type": "zero"},
    **{"solver_order": 1, "disable_corrector": [*range(50)]},  # Euler's steps
}

Case = tuple[str, str, dict[str, Any]]
RELEASED: dict[str, Case] = {
    "sd15": ("sd1", "plms", {"_class_name": "PNDMScheduler", **OLD, "steps_offset": 1}),
    "sd2": (
        "sd1",
        "euler",
        {"_class_name": "DDIMScheduler", **OLD, "steps_offset": 1}
        | {"prediction_type": "v_prediction"},
    ),
    "sdxl": (
        "sdxl",
        "euler",
        {**EULER, **OLD, "timestep_spacing": "leading", "steps_offset": 1}
        | {"interpolation_type": "linear", "sample_max_value": 1.0, "use_karras_sigmas": False},
    ),
    "kolors": (
        "kolors",
        "euler",
        {**EULER, **OLD, "timestep_spacing": "leading", "steps_offset": 1}
        | {"num_train_timesteps": 1100, "beta_end": 0.014, "interpolation_type": "linear"},
    ),
    "sd35": ("sd3", "euler", {**FLOW, "shift": 3.0}),
    "flux-dev": ("flux-dev", "euler", {**FLOW, **BY_SIZE}),
    "flux-schnell": ("flux-schnell", "euler", {**FLOW, "shift": 1.0, "base_shift": 0.5}),
    "qwen-image": (
        "qwen",
        "euler",
        {**FLOW, **BY_SIZE, "max_image_seq_len": 8192, "max_shift": 0.9}
        | {"shift": 1.0, "shift_terminal": 0.02, "time_shift_type": "exponential"},
    ),
    "flux2": ("flux2-klein", "euler", {**FLOW, **BY_SIZE}),
    "sana": ("sana", "dpmpp_2m", FLOW_DPM),
    "cogview4": (
        "cogview4",
        "euler",
        {**FLOW, "base_shift": 0.25, "max_shift": 0.75, "base_image_seq_len": 256}
        | {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ),
    "z-image-turbo": ("z-image", "euler", {**FLOW, "shift": 3.0, "use_dynamic_shifting": False}),
    "pixart-alpha": ("pixart-alpha", "dpmpp_2m", DPM),
    "dit": ("dit", "euler", {"_class_name": "DDIMScheduler", "clip_sample": False}),
}
CHANGED: dict[str, Case] = {
    # as the class takes them
    "nothing said": ("sd1", "euler", {"_class_name": "EulerDiscreteScheduler"}),
    "linspace is Euler's habit": ("sd1", "euler", {**EULER, "set_alpha_to_one": False}),
    "Euler from sigma": ("sdxl", "euler", {**EULER, "timestep_spacing": "trailing"}),
    "zero terminal SNR": ("sdxl", "euler", {**EULER, **V_ZERO, "timestep_spacing": "trailing"}),
    "Heun knows no zero terminal SNR": (
        "sd1",
        "heun",
        {"_class_name": "HeunDiscreteScheduler", **SD, "rescale_betas_zero_snr": True},
    ),
    "PNDM ends at its table": (
        "sd1",
        "plms",
        {"_class_name": "PNDMScheduler", **SD, "skip_prk_steps": True},
    ),
    # as the pipeline corrects them
    "DDIM without an offset": ("sd1", "euler", {"_class_name": "DDIMScheduler", **OLD}),
    "PNDM without an offset": ("sd1", "plms", {"_class_name": "PNDMScheduler", **OLD}),
    "clipped": ("sd1", "euler", {"_class_name": "DDIMScheduler", **SD, "clip_sample": True}),
    "SD3 shifts by size": ("sd3", "euler", {**FLOW, **BY_SIZE}),
    "Z-Image shifts by size": ("z-image", "euler", {**FLOW, **BY_SIZE}),
    # that choose levels of noise
    "Euler, Karras": ("sdxl", "euler", {**EULER, **KARRAS, "steps_offset": 1}),
    "Euler, exponential": ("sdxl", "euler", {**EULER, "use_exponential_sigmas": True}),
    "Euler, beta": ("sd1", "euler", {**EULER, "use_beta_sigmas": True}),
    "Euler, Karras within": (
        "sd1",
        "euler",
        {**EULER, **KARRAS, "sigma_min": 0.05, "sigma_max": 11.0},
    ),
    "DPM, Karras, to its table": (
        "sd1",
        "dpmpp_2m",
        {**DPM, **SD, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    ),
    "Heun, Karras": (
        "sd1",
        "heun",
        {"_class_name": "HeunDiscreteScheduler", **SD, "use_karras_sigmas": True},
    ),
    "DPM, Karras": ("sd1", "dpmpp_2m", {**DPM, **SD, "use_karras_sigmas": True}),
    "DPM, exponential": ("sd1", "dpmpp_2m", {**DPM, **SD, "use_exponential_sigmas": True}),
    "DPM, beta": ("sdxl", "dpmpp_2m", {**DPM, **SD, "use_beta_sigmas": True}),
    "DPM, Lu": ("sd1", "dpmpp_2m", {**DPM, **SD, "use_lu_lambdas": True}),
    "DPM, Karras, v, zero terminal SNR": (
        "sd1",
        "dpmpp_2m",
        {**DPM, **SD, **V_ZERO, "use_karras_sigmas": True},
    ),
    "DPM, clipped": (
        "pixart-alpha",
        "dpmpp_2m",
        {**DPM, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    ),
    "SD3, Karras": ("sd3", "euler", {**FLOW, "shift": 3.0, "use_karras_sigmas": True}),
    "SD3, beta": ("sd3", "euler", {**FLOW, "shift": 3.0, "use_beta_sigmas": True}),
    "Flux, exponential by size": (
        "flux-dev",
        "euler",
        {**FLOW, **BY_SIZE, "use_exponential_sigmas": True},
    ),
    "CogView4, exponential by size": ("cogview4", "euler", {**FLOW, **BY_SIZE}),
    "CogView4, a shift of its own": ("cogview4", "euler", {**FLOW, "shift": 3.0}),
    "Qwen-Image, a shift of its own": ("qwen", "euler", {**FLOW, "shift": 3.0}),
    "FLUX.2, beta by steps": ("flux2-klein", "euler", {**FLOW, **BY_SIZE, "use_beta_sigmas": True}),
    "FLUX.2, one shift": ("flux2-klein", "euler", {**FLOW, "shift": 3.0}),
    "Flux, to a share of noise": ("flux-schnell", "euler", {**FLOW, "shift_terminal": 0.1}),
    # in EDM's preconditioning
    "EDM of Stable Diffusion": ("sd1", "euler", {"_class_name": "EDMEulerScheduler"}),
    "EDM, to sigma_min": (
        "playground",
        "dpmpp_2m",
        {"_class_name": "EDMDPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"},
    ),
    "continuous, of a table": (
        "continuous",
        "euler",
        {**EULER, "timestep_type": "continuous", "prediction_type": "v_prediction"},
    ),
    **{
        f"{name} by UniPC": (name, "euler", UNIPC)
        for name in ("ltx", "hunyuan-video", "lumina2", "chroma", "qwen", "flux-dev", "flux2-klein")
    },
    "qwen by UniPC, to a share": ("qwen", "euler", {**UNIPC, "shift_terminal": 0.02}),
    **{
        f"{name} by UniPC, by size": (name, "euler", {**UNIPC, "use_dynamic_shifting": True})
        for name in ("ltx", "chroma", "qwen", "flux-dev", "flux2-klein")
    },
    "SANA shifts by nothing": ("sana", "dpmpp_2m", {**FLOW_DPM, "use_dynamic_shifting": True}),
}


@pytest.fixture
def with_scheduler(tiny_model: Callable, prompts: Path, tmp_path: Path) -> Callable:
    """Makes the tiny model of a builder with another scheduler's file; gives its settings."""

    def make(name: str, scheduler: dict[str, Any]) -> Any:
        folder = shutil.copytree(tiny_model(BUILDERS[name]), tmp_path / "model")
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        (folder / "model_index.json").write_text(json.dumps(index))
        return BUILDERS[name].teacher(folder, prompts)

    return make


@pytest.mark.parametrize(
    ("case", "steps"),
    [*((case, steps) for case in RELEASED for steps in (4, 10, 50)), *((c, 10) for c in CHANGED)],
)
def test_latents_are_those_of_the_pipeline(case: str, steps: int, with_scheduler: Callable) -> None:
    name, solver, scheduler = (RELEASED | CHANGED)[case]
    builder, settings = BUILDERS[name], with_scheduler(name, scheduler)
    teacher, pipe = load_teacher(settings), builder.open(settings.output)
    start = builder.start(pipe, teacher)
    ours = sample_teacher(teacher, start, builder.labels_of(teacher), solver, steps, 1.0)
    close(builder.visible(teacher, ours), builder.end(pipe, teacher, steps, 1.0), 1e-4)


@pytest.mark.parametrize(
    ("scheduler", "named"),
    [
        ({**FLOW, "use_karras_sigmas": True}, "use_karras_sigmas"),
        ({**FLOW, "shift_terminal": 0.1}, "shift_terminal"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "FlowMatchHeunDiscreteScheduler"),
        (FLOW_DPM, "DPMSolverMultistepScheduler"),
    ],
)
def test_cogview4_is_told_times_that_its_noise_follows(
    scheduler: dict[str, Any], named: str, with_scheduler: Callable
) -> None:
    assert named in refused(with_scheduler("cogview4", scheduler))


@pytest.mark.parametrize("name", ["lumina2", "hunyuan-video", "wan-unipc"])
def test_a_shift_by_size_that_no_pipeline_tells_unipc_is_refused(
    name: str, with_scheduler: Callable
) -> None:
    settings = with_scheduler(name, {**UNIPC, "use_dynamic_shifting": True})
    assert "UniPCMultistepScheduler: use_dynamic_shifting is not supported" in refused(settings)


def test_the_index_says_which_class_takes_the_file(with_scheduler: Callable) -> None:
    """As diffusers does, whatever class the file itself names."""
    settings = with_scheduler("sd1", {**EULER, "timestep_spacing": "trailing"})
    file = Path(settings.output) / "scheduler" / "scheduler_config.json"
    expected = load_teacher(settings).schedule.times(4)
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "PNDMScheduler"}))
    schedule = load_teacher(settings).schedule
    assert torch.equal(schedule.times(4), expected) and not schedule.starts_at_prior
