"""What families of videos have of their own: decoders that are told a time, glyphs, guiders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.models.export.save import save_denoiser
from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from tests.families.builders import BUILDERS
from tests.families.measures import NETWORK, close, refused
from tests.fixtures.denoise import denoise

Opened = Callable[[str], TeacherConfig]


@pytest.fixture
def opened(tiny_model: Any, prompts: Path, tmp_path: Path) -> Opened:
    """A copy of a tiny model, to be changed."""

    def make(name: str) -> TeacherConfig:
        folder = shutil.copytree(tiny_model(BUILDERS[name]), tmp_path / name)
        return BUILDERS[name].teacher(folder, prompts)

    return make


@pytest.mark.parametrize(
    ("name", "file", "key", "value"),
    [
        ("ltx", "transformer/config.json", "patch_size", 2),
        ("ltx", "transformer/config.json", "patch_size_t", 2),
        ("ltx", "vae/config.json", "decoder_inject_noise", [True, False]),
        ("sana-video", "transformer/config.json", "guidance_embeds", True),
        ("hunyuan-video", "transformer/config.json", "use_meanflow", True),
        ("hunyuan-video", "transformer/config.json", "patch_size_t", 2),
        ("hunyuan-video", "transformer/config.json", "in_channels", 4),
        ("hunyuan-video", "guider/guider_config.json", "guidance_rescale", 0.5),
        ("hunyuan-video", "guider/guider_config.json", "use_original_formulation", True),
        ("hunyuan-video", "guider/guider_config.json", "start", 0.1),
        ("hunyuan-video", "guider/guider_config.json", "stop", 0.9),
        ("hunyuan-video", "model_index.json", "guider", ["diffusers", "SkipLayerGuidance"]),
    ],
)
def test_what_no_pipeline_gives_or_nothing_here_does_is_named(
    name: str, file: str, key: str, value: Any, opened: Opened
) -> None:
    config = opened(name)
    path = Path(config.output) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    said = refused(config)
    assert key.removesuffix("_t") in said and "is not supported" in said


@torch.no_grad()
def test_a_decoder_that_is_told_a_time_makes_each_video_alone(opened: Opened) -> None:
    teacher = load_teacher(opened("ltx-told"))
    latents = BUILDERS["ltx-told"].noise(3)
    together = teacher.decode(latents)
    alone = torch.cat([teacher.decode(each) for each in latents.split(1)])
    close(together, alone, 1e-5)
    assert together.shape[1:] == teacher.pixels


@torch.no_grad()
def test_words_in_quotes_are_glyphs_as_the_pipeline_has_them(opened: Opened) -> None:
    config, builder = opened("hunyuan-video"), BUILDERS["hunyuan-video"]
    teacher, pipe = load_teacher(config), builder.open(Path(config.output))
    pipe.guider = pipe.guider.new(guidance_scale=1.0)
    prompt, seen = 'a wall that says "stop" and "go"', []
    pipe.transformer.register_forward_hook(lambda *call: seen.append(call[-1][0]))
    start = builder.noise(1)
    pipe([prompt], num_inference_steps=1, latents=start, output_type="latent", **builder.call)
    label = torch.tensor([teacher.conditioner.label(prompt)])
    ours = denoise(teacher, start, torch.ones(1), label)
    close(ours, start - seen[0], 1e-5)
    condition = teacher.conditioner(label, 1).tensors
    none = {"mask_glyphs": torch.zeros_like(condition["mask_glyphs"])}
    assert not torch.allclose(teacher(start, torch.ones(1), Condition({**condition, **none})), ours)


def test_a_students_guider_does_nothing_and_the_teachers_stays(
    opened: Opened, tmp_path: Path
) -> None:
    teacher = load_teacher(opened("hunyuan-video"))
    save_denoiser(new_student(teacher, NETWORK, 0), tmp_path / "student", {})
    saved = json.loads((tmp_path / "student" / "guider" / "guider_config.json").read_text())
    assert saved["guidance_scale"] == 1.0
    assert teacher.frozen.pipe.guider.guidance_scale == 6.0


@pytest.mark.parametrize("name", ["wan", "ltx", "sana-video", "hunyuan-video"])
def test_its_own_size_is_what_its_pipeline_makes_without_one(name: str, opened: Opened) -> None:
    config, sizes = opened(name), []
    teacher, pipe = load_teacher(config), BUILDERS[name].open(Path(config.output))
    settings = teacher.call_settings

    def begin(*given: Any) -> None:
        sizes.extend(given[2:5])
        raise InterruptedError

    pipe.prepare_latents = begin
    with pytest.raises(InterruptedError):
        pipe("a cat", **{key: settings[key] for key in {*settings} - {*teacher.axes}})
    height, width, frames = sizes
    assert teacher.own_size(teacher.backbone, teacher.latents) == (frames, height, width)


def test_sana_videos_sizes_are_not_binned(opened: Opened) -> None:
    assert load_teacher(opened("sana-video")).call_settings["use_resolution_binning"] is False
