"""Folders of models on latents: what is read of them, and one clear line for what is not."""

import json
import math

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from pipeline.config import CriticConfig, StudentConfig, TeacherConfig
from pipeline.diffusion.noise import Flow
from pipeline.models.export.card import usage
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.sampling import sample_teacher
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.fixtures.denoise import denoise
from tests.fixtures.tiny_models import FAMILIES, save_tiny
from tests.models.test_latent_models import (
    OTHER_SIZE,
    called,
    labels,
    noise,
    perturbed_student,
    settings_of,
)


@pytest.mark.parametrize("version", FAMILIES)
def test_another_size_than_the_models_own_is_told(tmp_path, version):
    config = settings_of(version, save_tiny(tmp_path / "model", version), tmp_path)
    code = usage(new_student(load_teacher(config), None, 0), "x")
    assert ("height=16, width=16" in code) == (version in OTHER_SIZE)
    assert ("use_resolution_binning=False" in code) == (version == "pixart-alpha")
    assert ("clean_caption=False" in code) == version.startswith("pixart")


def test_a_shift_that_follows_the_size_is_the_pipelines(tmp_path):
    config = settings_of("flux-dev", save_tiny(tmp_path / "model", "flux-dev"), tmp_path)
    for size, tokens in ((16, 16), (64, 256), (256, 4096)):
        schedule = load_teacher(config.model_copy(update={"image_size": size})).schedule
        assert isinstance(schedule, Flow)
        assert schedule.shift == pytest.approx(math.exp(calculate_shift(tokens)))


@torch.no_grad()
def test_guidance_as_an_input_is_each_networks_own(tmp_path):
    config = settings_of("flux-dev", save_tiny(tmp_path / "model", "flux-dev"), tmp_path)
    teacher = load_teacher(config)
    other = load_teacher(config.model_copy(update={"embedded_guidance": 1.0}))
    student = new_student(teacher, None, 0, StudentConfig(embedded_guidance=1.0))
    critic = new_student(teacher, None, 0, CriticConfig())
    x_t, t = noise("flux-dev"), torch.tensor([0.9, 0.5])
    x0 = [denoise(each, x_t, t, labels("flux-dev")) for each in (teacher, other, student, critic)]
    assert torch.equal(x0[1], x0[2]) and torch.equal(x0[0], x0[3])
    assert (x0[0] - x0[1]).abs().max() > 1e-4
    with pytest.raises(UserError, match=r"no unconditional branch .*teacher\.embedded_guidance"):
        denoise(teacher, x_t, t, None)


def test_stable_diffusion_3_may_come_without_its_largest_encoder(tmp_path, monkeypatch):
    pipe = FAMILIES["sd3"]("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    teacher = load_teacher(settings_of("sd3", tmp_path / "model", tmp_path))
    theirs = called(pipe, "sd3", 3, 1.0, "latent")
    ours = sample_teacher(teacher, noise("sd3"), labels("sd3"), "euler", 3, 1.0)
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.std().item(), rtol=1e-4)
    student = new_student(teacher, None, 0)
    save_denoiser(student, tmp_path / "student", {})
    monkeypatch.chdir(tmp_path)
    exec(usage(student, "student"), {})
    assert (tmp_path / "image.png").is_file()


def test_steps_that_diffusers_cannot_take_are_told(tmp_path):
    config = settings_of("sd1", save_tiny(tmp_path / "model", "sd1"), tmp_path)
    student = perturbed_student(config, [999, 600], False)
    assert student.settings is None and "jobs/sample.py" in usage(student, "x")
    with pytest.raises(UserError, match=r"distill\.student\.times: 0\.5 is no time .* whole train"):
        perturbed_student(config, [999, 0.5], True)


@pytest.mark.parametrize("version", FAMILIES)
def test_the_fingerprint_covers_text_side_and_prompts(tmp_path, version):
    config = settings_of(version, save_tiny(tmp_path / "model", version), tmp_path)
    before = teacher_fingerprint(config)
    other = tmp_path / "other.prompts"
    other.write_text('"a cow"\n')
    assert teacher_fingerprint(config.model_copy(update={"prompts": str(other)})) != before
    assert teacher_fingerprint(config.model_copy(update={"negative_prompt": ""})) != before
    less = config.model_copy(update={"embedded_guidance": 1.0})
    assert (teacher_fingerprint(less) != before) == (version == "flux-dev")
    assert teacher_fingerprint(config) == before


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "vae/config.json",
            {"latents_mean": [0.0] * 4},
            "its VAE has latents_mean and latents_std",
        ),
        (
            "unet/config.json",
            {"time_cond_proj_dim": 8},
            r"guidance as an input \(time_cond_proj_dim",
        ),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "has EDM's sigm"),
    ],
)
def test_what_would_be_left_out_is_refused_by_name(tmp_path, file, values, message):
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | values))
    with pytest.raises(UserError, match=f"that is not supported: .*{message}"):
        load_teacher(TeacherConfig(output=str(folder)))


def test_what_cannot_be_loaded_is_one_clear_error(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path / "model")
    config = TeacherConfig(output=str(folder))
    monkeypatch.setattr("pipeline.models.folder.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package transformers.*pip install"):
        load_teacher(config)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"teacher\.image_size: 17 is no multiple of 2"):
        load_teacher(config.model_copy(update={"image_size": 17}))
    index = folder / "model_index.json"
    whole = index.read_text()
    index.write_text(whole.replace("StableDiffusionPipeline", "KandinskyPipeline"))
    with pytest.raises(UserError, match="is a KandinskyPipeline .*teacher.output"):
        load_teacher(config)
    index.write_text(whole.replace('"CLIPTokenizer"', '"NoTokenizer"'))
    with pytest.raises(UserError, match="transformers has no NoTokenizer"):
        load_teacher(config)
    index.write_text(json.dumps(json.loads(whole) | {"vae": ["my_code", "VAE"]}))
    with pytest.raises(UserError, match=r"vae is a my_code\.VAE, code that is never run"):
        load_teacher(config)
    index.write_text(whole)
    next((folder / "text_encoder").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match=f"no {folder}/text_encoder/model.safetensors"):
        load_teacher(config)
