"""Models on images in this house give what diffusers' own pipelines give."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import ConsistencyModelPipeline, DDIMPipeline, DiffusionPipeline
from torch import Tensor

from pipeline.config import NetworkConfig, StudentConfig, TeacherConfig
from pipeline.diffusion import seeds
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_denoiser, load_teacher, teacher_fingerprint
from pipeline.models.lora import merged
from pipeline.models.network import Network
from pipeline.models.sampling import sample_student, sample_teacher
from pipeline.models.students import load_student, new_student
from pipeline.utils.errors import UserError
from tests.fixtures.denoise import denoise
from tests.fixtures.tiny_unets import CLASSES, UNETS, save_unet

LABELS = torch.tensor([2, 0])
SOLVERS = {"edm-classes": "dpmpp_2m"}


@pytest.fixture(params=list(UNETS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def folder(kind, tmp_path) -> Path:
    return save_unet(tmp_path / "model", kind)


def noise() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def labels(network: Any) -> Tensor | None:
    return LABELS if network.classes else None


class Call(NamedTuple):
    """One call of a scheduler's `step`."""

    output: Tensor
    time: Tensor
    x_t: Tensor
    after: Tensor


def called(pipe: Any, network: Any, steps: int) -> list[Call]:
    """What the pipeline's scheduler is given and gives, from `noise`."""
    calls, step = [], pipe.scheduler.step

    def noted(output: Tensor, time: Tensor, x_t: Tensor, **more: Any) -> Any:
        done = step(output, time, x_t, **more)
        calls.append(Call(output, time, x_t, done[0]))
        return done

    pipe.scheduler.step = noted
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": steps}
    settings["generator"] = torch.Generator().manual_seed(1)
    if isinstance(pipe, ConsistencyModelPipeline):
        settings["class_labels"] = labels(network)
    pipe(batch_size=2, **settings)
    return calls


def x0_of(scheduler: Any, call: Call, step: int) -> tuple[Tensor, Tensor]:
    """Time and x0, from the scheduler's own tables and functions."""
    if hasattr(scheduler, "alphas_cumprod"):
        alpha = scheduler.alphas_cumprod[int(call.time)] ** 0.5
        sigma = (1 - alpha**2) ** 0.5
        if scheduler.config.prediction_type == "v_prediction":
            return call.time, alpha * call.x_t - sigma * call.output
        return call.time, (call.x_t - sigma * call.output) / alpha
    sigma = scheduler.sigmas[step]
    if hasattr(scheduler, "precondition_outputs"):
        return sigma, scheduler.precondition_outputs(call.x_t, call.output, sigma)
    skip, out = scheduler.get_scalings_for_boundary_condition(sigma)
    return sigma, out * call.output + skip * call.x_t


def close(ours: Tensor, theirs: Tensor, bar: float, name: str = "") -> None:
    torch.testing.assert_close(
        ours, theirs, atol=bar * theirs.std().item(), rtol=bar, msg=lambda m: f"{name} {m}"
    )


@torch.no_grad()
def test_x0_is_that_of_the_pipelines_own_calls(folder):
    teacher = load_denoiser(folder, "").eval()
    pipe = DiffusionPipeline.from_pretrained(folder)
    calls = called(pipe, teacher, 5)
    assert len(calls) == 5
    for step, call in enumerate(calls):
        time, theirs = x0_of(pipe.scheduler, call, step)
        ours = denoise(teacher, call.x_t, torch.full((2,), float(time)), labels(teacher))
        close(ours, theirs, 1e-5)


def test_the_samplers_end_is_the_pipelines(folder, kind):
    """Of a consistency model in its one step; DDPM's folder is opened for DDIM."""
    teacher = load_teacher(TeacherConfig(output=str(folder)))
    pipe = (DDIMPipeline if kind == "ddpm" else DiffusionPipeline).from_pretrained(folder)
    spread = teacher.schedule.init_noise_sigma(torch.tensor(teacher.schedule.start))
    start = noise() * pipe.scheduler.init_noise_sigma / spread
    if kind == "consistency":
        (call,) = called(pipe, teacher, 1)
        ours = sample_student(teacher, start, labels(teacher)).clamp(-1, 1)
    else:
        call = called(pipe, teacher, 10)[-1]
        solver = SOLVERS.get(kind, "euler")
        ours = sample_teacher(teacher, start, labels(teacher), solver, 10, 1.0)
    close(ours, call.after, 1e-4)


def test_the_fingerprint_covers_weights_and_scheduler(folder, kind):
    config = TeacherConfig(output=str(folder))
    before = teacher_fingerprint(config)
    scheduler = next(folder.glob("**/scheduler_config.json"))
    scheduler.write_text(scheduler.read_text() + "\n")
    assert teacher_fingerprint(config) != before
    other = TeacherConfig(output=str(save_unet(folder.with_name("other"), kind, seed=1)))
    assert teacher_fingerprint(other) != before


STRANGER = """
import sys
sys.modules["pipeline"] = None  # an import of our package would fail
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import scheduling_lcm
for name, (latents, labels, settings, fresh) in torch.load("inputs.pt").items():
    scheduling_lcm.randn_tensor = lambda *_, fresh=fresh, **__: fresh.pop(0)
    pipe = DiffusionPipeline.from_pretrained(f"{name}/student")
    step, last = pipe.scheduler.step, []
    def noted(*given, step=step, last=last, **named):
        done = step(*given, **named)
        last.append(done[0])
        return done
    pipe.scheduler.step = noted
    start = torch.tensor(float(pipe.scheduler.init_noise_sigma))
    images = pipe(2, labels, latents=latents / start, output_type="pt", **settings).images
    torch.save((images, last[-1]), f"{name}/images.pt")
"""
FEW = {"ddpm-early": [399], "ddpm-four": [999, 749, 499, 249], "ddim-two": [999, 499]}


def test_a_stranger_gets_the_students_images(tmp_path):
    """All in one process, on initial latents such as the pipeline makes; x0 before it is shown."""
    students: dict[str, Network] = {}
    inputs = {}
    for name in (*UNETS, *FEW):
        kind, times = (name, None) if name in UNETS else (name.partition("-")[0], FEW[name])
        config = TeacherConfig(output=str(save_unet(tmp_path / name / "model", kind)))
        settings = StudentConfig(times=times, renoise=name != "ddim-two")
        student = new_student(load_teacher(config), NetworkConfig(), 0, settings)
        with torch.no_grad():
            for weight in student.parameters():
                weight += 0.05 * torch.randn_like(weight)
        students[name] = student
        own_sampler = {"times": times, "renoise": settings.renoise} if times else {}
        save_denoiser(student, tmp_path / name / "student", {"distill": {"student": own_sampler}})
        start = student.schedule.init_noise_sigma(torch.tensor(student.sampler.timesteps[0]))
        fresh = [seeds.renewed(noise(), number) for number in range(4)]
        inputs[name] = start * noise(), labels(student), student.settings, fresh
    torch.save(inputs, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", STRANGER], cwd=tmp_path, check=True)
    for name, student in students.items():
        images, x0 = torch.load(tmp_path / name / "images.pt")
        ours = sample_student(student, noise(), labels(student))
        close(ours, x0, 1e-5, name)
        torch.testing.assert_close(images, (ours / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
        back = load_student(tmp_path / name / "student")
        close(sample_student(back, noise(), labels(student)), ours, 1e-6, name)


@pytest.mark.parametrize("kind", ["ddpm", "edm-classes"])
def test_adapters_learn_on_images_and_are_merged(tmp_path, kind):
    teacher = load_teacher(TeacherConfig(output=str(save_unet(tmp_path / "model", kind))))
    settings = StudentConfig(lora={"rank": 4, "alpha": 6.0})
    student = new_student(teacher, NetworkConfig(), 0, settings)
    condition = student.conditioner(labels(student), 2)
    student.sampler.images(student, noise(), condition).square().mean().backward()
    with torch.no_grad():
        for name, weight in student.named_parameters():
            assert weight.requires_grad == (".lora_" in name)
            if ".lora_B." in name:
                assert weight.grad.any()
                weight.normal_()
    ours = sample_student(student, noise(), labels(student))
    save_denoiser(merged(student), tmp_path / "student", {})
    saved = load_student(tmp_path / "student")
    close(sample_student(saved, noise(), labels(student)), ours, 1e-5)
    assert (sample_student(teacher, noise(), labels(student)) - ours).abs().max() > 0.1 * ours.std()


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "it works on latents"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "its class_embed_type is timestep"),
        ("unet/config.json", {"out_channels": 6}, "it predicts a variance too"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "its noise is Flow",
        ),
    ],
)
def test_what_would_be_another_network_is_refused_by_name(tmp_path, file, values, message):
    folder = save_unet(tmp_path / "model", "ddim-classes")
    changed(folder / file, **values)
    with pytest.raises(UserError, match=f"that is not supported: {message}"):
        load_denoiser(folder, "")


def test_classes_are_those_of_the_folder(folder, kind):
    found = load_denoiser(folder, "").classes
    assert found == (CLASSES if kind.endswith("classes") or kind == "consistency" else None)
