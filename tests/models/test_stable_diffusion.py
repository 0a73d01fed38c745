"""Stable Diffusion in this house gives what diffusers' own pipeline gives."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from pipeline.config import TeacherConfig
from pipeline.errors import UserError
from pipeline.models.build import load_teacher, new_student, teacher_fingerprint
from pipeline.models.export import save_denoiser
from pipeline.models.sampling import sample_student, sample_teacher
from tests.stable_diffusion import save_tiny

PROMPTS = ["a cat", "two dogs on a hill", "a cat"]


@pytest.fixture(scope="module", params=["1", "2", "xl"])
def folder(request, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sd") / "model", request.param)


@pytest.fixture
def config(folder, tmp_path) -> TeacherConfig:
    file = tmp_path / "all.prompts"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS))
    return TeacherConfig(output=str(folder), prompts=str(file), negative_prompt="blurry")


def opened(folder: Path) -> DiffusionPipeline:
    pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def inputs(pipe: DiffusionPipeline, prompts: list[str]) -> dict[str, Any]:
    """What the pipeline gives its UNet of prompts."""
    if not hasattr(pipe, "text_encoder_2"):
        context, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
        return {"encoder_hidden_states": context}
    context, _, pooled, _ = pipe.encode_prompt(
        prompts, device="cpu", do_classifier_free_guidance=False
    )
    sizes = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, pooled.shape[1])
    added = {"text_embeds": pooled, "time_ids": sizes.repeat(len(prompts), 1)}
    return {"encoder_hidden_states": context, "added_cond_kwargs": added}


@torch.no_grad()
def test_x0_is_that_of_diffusers(folder, config):
    teacher, pipe = load_teacher(config), opened(folder)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(1000)
    labels = torch.tensor([1, 0])
    more = inputs(pipe, [PROMPTS[1], PROMPTS[0]])
    for t in (5, 400, 999):
        x_t = noise(2)
        output = pipe.unet(x_t, t, **more).sample
        theirs = scheduler.step(output, t, x_t).pred_original_sample
        ours = teacher(x_t, torch.full((2,), float(t)), labels)
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.std().item(), rtol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize("negative", ["blurry", ""])
def test_the_samplers_end_is_the_pipelines(folder, config, steps, guidance, negative):
    config = config.model_copy(update={"negative_prompt": negative})
    teacher, pipe = load_teacher(config), opened(folder)
    solver = "plms" if "PNDM" in type(pipe.scheduler).__name__ else "euler"
    theirs = pipe(
        [PROMPTS[2], PROMPTS[1]],
        negative_prompt=[negative] * 2 if negative else None,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=noise(2),
        output_type="latent",
    ).images
    ours = sample_teacher(teacher, noise(2), torch.tensor([2, 1]), solver, steps, guidance)
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.std().item(), rtol=1e-4)


def test_latents_are_decoded_as_the_pipeline_does(folder, config):
    teacher, pipe = load_teacher(config), opened(folder)
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "latents": noise(1)}
    latents = pipe(PROMPTS[0], output_type="latent", **settings).images
    images = pipe(PROMPTS[0], output_type="pt", **settings).images
    shown = (teacher.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert shown.shape == (1, 3, 16, 16)
    torch.testing.assert_close(shown, images, atol=1e-5, rtol=0)


def test_copies_share_text_and_latents_and_train_the_unet_alone(config):
    teacher = load_teacher(config)
    student = new_student(teacher, None, 0)
    assert student.text is teacher.text and student.latents is teacher.latents
    assert all(name.startswith("unet.") for name, _ in student.named_parameters())
    assert all(name.startswith("unet.") for name in student.state_dict())
    assert all(each.requires_grad for each in student.parameters())
    assert not any(each.requires_grad for each in teacher.parameters())
    for encoder in student.text.encoders:
        assert not any(each.requires_grad for each in encoder.network.parameters())
    assert copy.deepcopy(student).unet is not student.unet


def test_prompts_are_encoded_once_and_the_oldest_leave(config, monkeypatch):
    from pipeline.models import text

    monkeypatch.setattr(text, "_KEPT", 2)
    side, encoded = load_teacher(config).text, []
    real = side._encode
    monkeypatch.setattr(side, "_encode", lambda n, d: (encoded.append(list(n)), real(n, d))[1])
    rows = torch.zeros(3, 1)
    first = side.embed(torch.tensor([0, 1, 0]), rows).tokens
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    again = side.embed(torch.tensor([1, 0, 1]), rows).tokens
    assert torch.equal(again, first[[1, 0, 1]])
    side.embed(torch.tensor([2]), rows[:1])
    side.embed(torch.tensor([0]), rows[:1])
    assert encoded == [[0, 1], [2], [0]]


STRANGER = """
import sys
sys.modules["pipeline"] = None  # an import of our package would fail
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("student")
latents, prompts = torch.load("inputs.pt")
made = pipe(prompts, num_inference_steps=1, guidance_scale=1.0, latents=latents, output_type="pt")
torch.save((made.images, pipe.scheduler.timesteps), "images.pt")
"""


def test_a_stranger_gets_the_students_images(config, tmp_path):
    student = new_student(load_teacher(config), None, 0).eval()
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save_denoiser(student, tmp_path / "student", {"seed": 0})
    torch.save((noise(2), [PROMPTS[0], PROMPTS[1]]), tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", STRANGER], cwd=tmp_path, check=True, capture_output=True)
    made, times = torch.load(tmp_path / "images.pt")
    assert times.tolist() == [999]
    images = student.decode(sample_student(student, noise(2), torch.tensor([0, 1])))
    torch.testing.assert_close(made, (images / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    back = load_teacher(config.model_copy(update={"output": str(tmp_path / "student")}))
    torch.testing.assert_close(
        sample_student(back, noise(2), torch.tensor([0, 1])),
        sample_student(student, noise(2), torch.tensor([0, 1])),
    )


def test_the_fingerprint_covers_text_side_and_prompts(config, tmp_path):
    before = teacher_fingerprint(config)
    other = tmp_path / "other.prompts"
    other.write_text('"a cow"\n')
    assert teacher_fingerprint(config.model_copy(update={"prompts": str(other)})) != before
    assert teacher_fingerprint(config.model_copy(update={"negative_prompt": ""})) != before
    assert teacher_fingerprint(config) == before


def test_what_cannot_be_loaded_is_one_clear_error(config, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pipeline.models.text", None)
    with pytest.raises(UserError, match=r"needs the package transformers.*pip install"):
        load_teacher(config)
    monkeypatch.undo()
    copy_of = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folder), str(copy_of)], check=True)
    index = copy_of / "model_index.json"
    index.write_text(re.sub(r"StableDiffusion\w*Pipeline", "KandinskyPipeline", index.read_text()))
    broken = config.model_copy(update={"output": str(copy_of)})
    with pytest.raises(UserError, match="is a KandinskyPipeline; known with text are StableDiff"):
        load_teacher(broken)
    index.write_text((folder / "model_index.json").read_text())
    next((copy_of / "text_encoder").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match=f"cannot load {copy_of}/text_encoder"):
        load_teacher(broken)
