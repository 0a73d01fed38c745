"""Models on latents in this house give what diffusers' own pipelines give."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor

from pipeline.config import StudentConfig, TeacherConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import Flow
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_teacher
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student, new_student
from pipeline.models.vae import VAE
from tests.fixtures.denoise import denoise
from tests.fixtures.tiny_models import FAMILIES, save_tiny
from tests.fixtures.tiny_parts import dc, vae

PROMPTS = ["a cat", "two dogs on a hill", "a cat"]
CLASSES = [207, 360]
OTHER_SIZE = ("flux-dev", "flux-schnell", "pixart-alpha")
"""Made here at 16 pixels a side, which is not their own."""
SOLVERS = {
    "sd1": "plms",
    "pixart-alpha": "dpmpp_2m",
    "pixart-sigma": "dpmpp_2m",
    "sana": "dpmpp_2m",
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def version(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(version, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", version)


@pytest.fixture
def config(folder, version, tmp_path) -> TeacherConfig:
    return settings_of(version, folder, tmp_path)


def settings_of(version: str, folder: Path, tmp_path: Path) -> TeacherConfig:
    file = tmp_path / "all.prompts"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS))
    size = 16 if version in OTHER_SIZE else None
    prompts = None if version == "dit" else str(file)
    return TeacherConfig(
        output=str(folder), prompts=prompts, negative_prompt="blurry", image_size=size
    )


def opened(folder: Path) -> DiffusionPipeline:
    pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(version: str, count: int = 2) -> Tensor:
    side = 16 if version == "sana" else 8
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(1))


def packed(x: Tensor) -> Tensor:
    return FluxPipeline._pack_latents(x, *x.shape)


def unpacked(x: Tensor) -> Tensor:
    return FluxPipeline._unpack_latents(x, 16, 16, 2)


def called(pipe: Any, version: str, steps: int, guidance: float, output: str = "pt", **more: Any):
    """What the pipeline makes of `noise` with the labels 1 and 0."""
    settings = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": output}
    if version == "dit":  # it takes a generator alone
        settings["generator"] = torch.Generator().manual_seed(1)
        return pipe(CLASSES, **settings).images
    settings["latents"] = noise(version)
    if version.startswith("flux"):
        settings |= {"latents": packed(settings["latents"]), "height": 16, "width": 16}
        settings |= {"guidance_scale": 3.5}
    if version.startswith(("pixart", "sana")):
        settings["use_resolution_binning"] = False
    if version.startswith("pixart"):
        settings["clean_caption"] = False
    if version == "pixart-alpha":
        settings |= {"height": 16, "width": 16}
    if version == "sana":
        settings |= {"height": 32, "width": 32}
    return pipe([PROMPTS[1], PROMPTS[0]], **settings, **more).images


def labels(version: str) -> Tensor:
    return torch.tensor(CLASSES if version == "dit" else [1, 0])


def shown(images: Tensor) -> Tensor:
    return (images / 2 + 0.5).clamp(0, 1)


def x0_of(pipe: DiffusionPipeline, schedule: Any, x_t: Tensor, out: Tensor, step: int) -> tuple:
    """Time and x0 at a step, from the scheduler's own tables."""
    scheduler, out = pipe.scheduler, out[:, : x_t.shape[1]]
    if isinstance(schedule, Flow):
        sigma = scheduler.sigmas[step]
        return sigma, x_t - sigma * out
    time = scheduler.timesteps[step]
    alpha = scheduler.alphas_cumprod[int(time)] ** 0.5
    sigma = (1 - alpha**2) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        return time, alpha * x_t - sigma * out
    return time, (x_t - sigma * out) / alpha


@torch.no_grad()
def test_x0_is_that_of_the_pipelines_own_calls(folder, version, config):
    """At every step of a run of the pipeline, from what it gives its network and gets back."""
    teacher, pipe = load_teacher(config), opened(folder)
    calls: list[tuple[Tensor, Tensor]] = []

    def note(network: Any, given: tuple, named: dict, output: Any) -> None:
        x_t = named["hidden_states"] if "hidden_states" in named else given[0]
        out = output[0]
        if version.startswith("flux"):
            x_t, out = unpacked(x_t), unpacked(out)
        calls.append((x_t.clone(), out.clone()))

    backbone = getattr(pipe, "transformer", None) or pipe.unet
    backbone.register_forward_hook(note, with_kwargs=True)
    called(pipe, version, 5, 1.0)
    times = pipe.scheduler.timesteps.tolist()
    for step, (x_t, out) in enumerate(calls):
        if step and times[step] == times[step - 1]:
            continue  # PLMS asks twice
        time, theirs = x0_of(pipe, teacher.schedule, x_t, out, step)
        ours = denoise(teacher, x_t, torch.full((2,), float(time)), labels(version))
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.std().item(), rtol=1e-5)
    assert len(calls) >= 5


@pytest.mark.parametrize(("steps", "guidance"), [(4, 1.0), (10, 4.0)])
@pytest.mark.parametrize("negative", ["blurry", ""])
def test_the_samplers_end_is_the_pipelines(folder, version, config, steps, guidance, negative):
    teacher = load_teacher(config.model_copy(update={"negative_prompt": negative}))
    more: dict[str, Any] = {"negative_prompt": [negative] * 2}
    if version.startswith("flux") or version == "dit":
        more = {}
    elif version in ("sd1", "sd2", "sd2-zero-snr", "sdxl"):
        more = {"negative_prompt": [negative] * 2 if negative else None}
    output = "pt" if version == "dit" else "latent"
    theirs = called(opened(folder), version, steps, guidance, output, **more)
    solver = SOLVERS.get(version, "euler")
    guidance = 1.0 if version.startswith("flux") else guidance
    ours = sample_teacher(teacher, noise(version), labels(version), solver, steps, guidance)
    if version == "dit":
        ours, theirs = shown(teacher.decode(ours)), torch.as_tensor(theirs)
    theirs = unpacked(theirs) if version.startswith("flux") else theirs
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.std().item(), rtol=1e-4)


def test_latents_are_decoded_as_the_pipeline_does(folder, version, config):
    teacher, pipe = load_teacher(config), opened(folder)
    images = called(pipe, version, 2, 1.0)
    if version == "dit":
        latents = sample_teacher(teacher, noise(version), labels(version), "euler", 2, 1.0)
    else:
        latents = called(pipe, version, 2, 1.0, "latent")
    latents = unpacked(latents) if version.startswith("flux") else latents
    ours = shown(teacher.decode(latents))
    side = 32 if version == "sana" else 16
    assert ours.shape == (2, 3, side, side)
    torch.testing.assert_close(ours, torch.as_tensor(images), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("make", [vae, dc])
def test_large_images_go_through_the_vae_in_tiles(make, monkeypatch):
    latents = VAE(make(4, 0.5))
    small = {"sample": 16, "latent": 8}
    for name in vars(latents.vae):
        if name.startswith("tile_") and (kind := name.split("_")[1]) in small:
            setattr(latents.vae, name, small[kind] // (1 + ("stride" in name)))
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = latents.encode(images)
    shown = latents.decode(whole)
    monkeypatch.setattr("pipeline.models.vae.TILED", 31)
    tiled = latents.decode(whole)
    assert tiled.shape == shown.shape and not torch.equal(tiled, shown)
    assert not torch.equal(latents.encode(images), whole)
    monkeypatch.undo()
    assert torch.equal(latents.decode(whole), shown)


def test_copies_share_text_and_latents_and_train_the_unet_alone(config):
    teacher = load_teacher(config)
    student = new_student(teacher, None, 0)
    assert student.conditioner is teacher.conditioner and student.latents is teacher.latents
    part = f"{student.part}."
    assert all(name.startswith(part) for name, _ in student.named_parameters())
    assert all(name.startswith(part) for name in student.state_dict())
    assert all(each.requires_grad for each in student.parameters())
    assert not any(each.requires_grad for each in teacher.parameters())
    for name, each in student.frozen.pipe.components.items():
        if name.startswith("text_encoder"):
            assert not any(weight.requires_grad for weight in each.parameters())
    assert copy.deepcopy(student).backbone is not student.backbone


def test_prompts_are_encoded_once_and_the_oldest_leave(config, version, monkeypatch):
    if version == "dit":
        return
    from pipeline.models import condition

    monkeypatch.setattr(condition, "_KEPT", 2)
    side, encoded = load_teacher(config).conditioner, []
    real = side.encode
    monkeypatch.setattr(side, "encode", lambda t, *rest: (encoded.append(t), real(t, *rest))[1])
    first = side(torch.tensor([0, 1, 0]), 3)["tokens"]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    again = side(torch.tensor([1, 0, 1]), 3)["tokens"]
    assert torch.equal(again, first[[1, 0, 1]])
    side(torch.tensor([2]), 1)
    side(torch.tensor([0]), 1)
    assert encoded == [PROMPTS[:2], PROMPTS[2:], PROMPTS[:1]]


STRANGER = """
import sys
sys.modules["pipeline"] = None  # an import of our package would fail
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import scheduling_flow_match_euler_discrete, scheduling_lcm
for name, (first, settings, fresh) in torch.load("inputs.pt", weights_only=False).items():
    for scheduler in (scheduling_flow_match_euler_discrete, scheduling_lcm):
        scheduler.randn_tensor = lambda *_, fresh=fresh, **__: fresh.pop(0)
    pipe = DiffusionPipeline.from_pretrained(f"{name}/student")
    made = pipe(first, output_type="pt", **settings)
    torch.save((torch.as_tensor(made.images), pipe.scheduler.timesteps), f"{name}/images.pt")
"""
FEW = {
    "sd1-lcm": ([999, 749, 499, 249], True),
    "sdxl-times": ([999, 600, 200], True),
    "pixart-alpha-ddim": ([999, 499], False),
    "sd3-fresh": ([1.0, 0.75, 0.5, 0.25], True),
    "sana-ode": ([1.0, 0.6], False),
}
"""Students of a few steps: their times, and whether noise is fresh between them."""


def perturbed_student(config: TeacherConfig, times: list[float] | None, renoise: bool):
    settings = StudentConfig(times=times, renoise=renoise)
    student = new_student(load_teacher(config), None, 0, settings)
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return student


def arguments(version: str) -> tuple[Any, dict[str, Any]]:
    """What `called` gives a pipeline, but for the steps and the kind of output."""
    seen: list[Any] = []

    def pipe(first: Any, **settings: Any) -> Any:
        seen.append((first, settings))
        return SimpleNamespace(images=None)

    called(pipe, version, 1, 1.0)
    first, settings = seen[0]
    return first, {k: settings[k] for k in settings.keys() - {"num_inference_steps", "output_type"}}


def test_a_stranger_gets_the_students_images(tmp_path):
    """All families in one process: importing diffusers is what takes long."""
    students, inputs = {}, {}
    for name in (*FAMILIES, *FEW):
        version = name if name in FAMILIES else name.rpartition("-")[0]
        config = settings_of(version, save_tiny(tmp_path / name / "model", version), tmp_path)
        student = perturbed_student(config, *FEW.get(name, (None, True)))
        students[name] = version, config, student
        steps = {"times": FEW[name][0], "renoise": FEW[name][1]} if name in FEW else {}
        save_denoiser(student, tmp_path / name / "student", {"distill": {"student": steps}})
        first, settings = arguments(version)
        fresh = [seeds.renewed(noise(version), number) for number in range(4)]
        inputs[name] = first, settings | student.settings, fresh
    torch.save(inputs, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", STRANGER], cwd=tmp_path, check=True)
    for name, (version, config, student) in students.items():
        made, times = torch.load(tmp_path / name / "images.pt")
        unit = 1000 if isinstance(student.schedule, Flow) else 1
        assert times.tolist() == pytest.approx([unit * time for time in student.sampler.timesteps])
        given = noise(version), labels(version)
        images = shown(student.decode(sample_student(student, *given)))
        torch.testing.assert_close(made, images, atol=1e-5, rtol=0, msg=lambda m, n=name: n + m)
        back = load_student(tmp_path / name / "student", config)
        torch.testing.assert_close(sample_student(back, *given), sample_student(student, *given))
