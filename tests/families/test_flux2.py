"""FLUX.2's own: a shift by the number of steps, a distilled klein, dev's guidance, chats."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from pipeline.config import TeacherConfig
from pipeline.models.denoiser import blank
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.flux2 import Flux2
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.lora import merged
from pipeline.models.sampling import sample_teacher
from pipeline.utils.errors import UserError
from tests.families.builders.flux2 import BUILDERS
from tests.families.measures import adapted, close, guidable, learnt, made_by, perturbed, refused

KLEIN, DEV = BUILDERS["flux2-klein"], BUILDERS["flux2-dev"]


@pytest.fixture
def klein(tiny_model: Any, prompts: Path, tmp_path: Path) -> TeacherConfig:
    return KLEIN.teacher(shutil.copytree(tiny_model(KLEIN), tmp_path / "klein"), prompts)


@pytest.mark.parametrize("more", [{}, {"time_shift_type": "linear"}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("tokens", [1024, 4096, 6400])
def test_times_are_the_schedulers_for_every_number_of_steps(tokens: int, more: dict) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **more)
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    schedule, _ = Flux2.read_schedule(config, tokens)
    for steps in (2, 4, 28, 50, 200):
        even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
        mu = compute_empirical_mu(tokens, steps)
        scheduler.set_timesteps(sigmas=even.tolist(), mu=mu)
        close(schedule.times(steps), scheduler.sigmas.double(), 1e-5)
        if steps == 50 and "use_karras_sigmas" not in more:
            close(schedule.time_from_fraction(even), scheduler.sigmas[:-1].double(), 1e-5)


def test_a_distilled_one_is_sampled_without_guidance_as_its_pipeline_does(
    klein: TeacherConfig,
) -> None:
    index = Path(klein.output) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"is_distilled": True}))
    teacher, pipe = load_teacher(klein), KLEIN.open(Path(klein.output))
    assert not guidable(teacher) and teacher.pipeline().config.is_distilled
    labels, start = KLEIN.labels_of(teacher), KLEIN.start(pipe, teacher)
    with pytest.raises(UserError, match=r"pairs\.guidance"):
        sample_teacher(teacher, start, labels, "euler", 4, 4.0)
    ours = sample_teacher(teacher, start, labels, "euler", 4, 1.0)
    close(ours, KLEIN.end(pipe, teacher, 4, 4.0), 1e-4)


@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_devs_guidance_is_an_input(tiny_model: Any, prompts: Path, guidance: float) -> None:
    config = DEV.teacher(tiny_model(DEV), prompts)
    told = config.model_copy(update={"embedded_guidance": guidance})
    assert teacher_fingerprint(told) != teacher_fingerprint(config)
    teacher, pipe = load_teacher(told), DEV.open(Path(config.output))
    ours = sample_teacher(teacher, DEV.noise(), DEV.labels_of(teacher), "euler", 4, 1.0)
    first, settings = DEV.arguments(1.0)
    asked = settings | {"guidance_scale": guidance, "output_type": "latent"}
    close(ours, DEV.unpack(pipe(first, num_inference_steps=4, **asked).images), 1e-4)
    plain = sample_teacher(load_teacher(config), DEV.noise(), torch.tensor([1, 0]), "euler", 4, 1.0)
    assert (ours - plain).abs().max() > 1e-3


def test_a_dev_without_its_guidance_is_named(
    tiny_model: Any, prompts: Path, tmp_path: Path
) -> None:
    dev = DEV.teacher(shutil.copytree(tiny_model(DEV), tmp_path / "dev"), prompts)
    file = Path(dev.output) / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"guidance_embeds": False}))
    assert "guidance_embeds" in refused(dev)


@torch.no_grad()
def test_images_are_encoded_as_the_pipeline_does(klein: TeacherConfig) -> None:
    latents, pipe = load_teacher(klein).latents, KLEIN.open(Path(klein.output))
    assert latents is not None
    images = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    close(latents.encode(images), pipe._encode_vae_image(images, None), 1e-5)


def test_a_tokenizer_without_its_chat_template_is_named(klein: TeacherConfig) -> None:
    (Path(klein.output) / "tokenizer" / "chat_template.jinja").unlink()
    assert "tokenizer has no chat template" in refused(klein)


@torch.no_grad()
def test_of_its_last_block_the_image_is_what_its_network_goes_on_with(klein: TeacherConfig) -> None:
    teacher, seen = load_teacher(klein), []
    given = blank(teacher, 2)
    last = teacher.get_submodule(teacher.stages()[-1])
    last.register_forward_hook(lambda *call: seen.append(call[-1]))
    teacher.backbone.norm_out.register_forward_pre_hook(lambda _, call: seen.append(call[0]))
    teacher(*given)
    assert torch.equal(teacher.of_image(seen[0], given.x_t, given.condition), seen[1])


def test_blocks_of_one_stream_can_be_adapted(klein: TeacherConfig, tmp_path: Path) -> None:
    teacher = load_teacher(klein)
    student = perturbed(adapted(teacher, modules=("to_q", "to_qkv_mlp_proj")), 0.2)
    assert sum(".attn.to_qkv_mlp_proj." in name for name in learnt(student)) == 2 * 2
    save_denoiser(merged(student), tmp_path / "student", {})
    pipe, exported = KLEIN.open(Path(klein.output)), KLEIN.open(tmp_path / "student")
    pipe.scheduler = exported.scheduler
    pipe.load_lora_weights(tmp_path / "student")
    close(KLEIN.called(pipe, 1, 1.0, "latent"), made_by(student, KLEIN), 1e-5)
