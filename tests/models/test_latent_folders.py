"""Folders of models on latents: what is read of them, and one clear line for what is not."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import transformers
from diffusers import UNet2DConditionModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import load_file, save_file

from pipeline.config import CriticConfig, StudentConfig, TeacherConfig
from pipeline.diffusion.noise import Flow
from pipeline.models.export.card import usage
from pipeline.models.export.save import add_variant, save_denoiser
from pipeline.models.folder import load_parts
from pipeline.models.loading import (
    load_teacher,
    load_vae,
    teacher_fingerprint,
    vae_fingerprint,
)
from pipeline.models.sampling import sample_teacher
from pipeline.models.students import few_step_sampler, load_student, new_student
from pipeline.utils.errors import UserError
from tests.families.builder import PROMPTS, OnLatents
from tests.families.builders import BUILDERS
from tests.families.measures import refused
from tests.fixtures.denoise import denoise
from tests.fixtures.tiny_models import save_tiny

LATENTS = [name for name, builder in BUILDERS.items() if isinstance(builder, OnLatents)]


def settings_of(version: str, tmp_path: Path) -> TeacherConfig:
    file = tmp_path / "all.prompts"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS))
    return BUILDERS[version].teacher(save_tiny(tmp_path / "model", version), file)


@pytest.mark.parametrize("version", LATENTS)
def test_another_size_than_the_models_own_is_told(tmp_path, version):
    config = settings_of(version, tmp_path)
    code = usage(new_student(load_teacher(config), None, 0), "x")
    size = BUILDERS[version].settings.get("image_size")
    height, width = size[-2:] if isinstance(size, list) else (16, 16)
    assert (f"height={height}, width={width}" in code) == (size is not None)
    bins = version in ("pixart-alpha", "sana-video")
    assert ("use_resolution_binning=False" in code) == bins
    assert ("clean_caption=False" in code) == version.startswith("pixart")


def test_a_shift_that_follows_the_size_is_the_pipelines(tmp_path):
    config = settings_of("flux-dev", tmp_path)
    for size, tokens in ((16, 16), (64, 256), (256, 4096)):
        schedule = load_teacher(config.model_copy(update={"image_size": size})).schedule
        assert isinstance(schedule, Flow)
        assert schedule.shift == pytest.approx(math.exp(calculate_shift(tokens)))


def test_guidance_as_an_input_is_refused_where_diffusers_takes_none(tmp_path):
    config = settings_of("qwen", tmp_path)
    file = Path(config.output, "transformer", "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"guidance_embeds": True}))
    with pytest.raises(UserError, match=r"QwenImagePipeline .*guidance_embeds"):
        load_teacher(config)


def test_a_prompt_is_as_long_as_the_pipelines_call_takes_it(tmp_path):
    config, builder = settings_of("qwen", tmp_path), BUILDERS["qwen"]
    teacher, pipe, noise = load_teacher(config), builder.open(config.output), builder.noise(1)
    prompt = "a cat and " * 50
    label = torch.tensor([teacher.conditioner.label(prompt)])
    ours = sample_teacher(teacher, noise, label, "euler", 2, 1.0)
    settings = {**builder.call, "latents": builder.pack(noise), "output_type": "latent"}
    theirs = builder.unpack(pipe(prompt, num_inference_steps=2, **settings).images)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_guidance_as_an_input_is_each_networks_own(tmp_path):
    config = settings_of("flux-dev", tmp_path)
    teacher = load_teacher(config)
    other = load_teacher(config.model_copy(update={"embedded_guidance": 1.0}))
    student = new_student(teacher, None, 0, StudentConfig(embedded_guidance=1.0))
    critic = new_student(teacher, None, 0, CriticConfig())
    x_t, t = BUILDERS["flux-dev"].noise(), torch.tensor([0.9, 0.5])
    x0 = [denoise(each, x_t, t, torch.tensor([1, 0])) for each in (teacher, other, student, critic)]
    assert torch.equal(x0[1], x0[2]) and torch.equal(x0[0], x0[3])
    assert (x0[0] - x0[1]).abs().max() > 1e-4
    with pytest.raises(UserError, match=r"no unconditional branch .*teacher\.embedded_guidance"):
        denoise(teacher, x_t, t, None)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, None])
def test_a_saved_student_keeps_the_guidance_it_learnt_with(tmp_path, guidance):
    teacher = settings_of("flux-dev", tmp_path)
    learnt = new_student(load_teacher(teacher), None, 0, StudentConfig(embedded_guidance=guidance))
    own = {"distill": {"student": {"times": None, "embedded_guidance": guidance}}}
    save_denoiser(learnt, str(tmp_path / "student"), own)
    loaded = load_student(tmp_path / "student", teacher, 2.0)
    x_t, t = BUILDERS["flux-dev"].noise(), torch.tensor([0.9, 0.5])
    labels = torch.tensor([1, 0])
    assert torch.equal(denoise(loaded, x_t, t, labels), denoise(learnt, x_t, t, labels))


def test_stable_diffusion_3_may_come_without_its_largest_encoder(tmp_path, monkeypatch):
    builder = BUILDERS["sd3"]
    pipe = builder.make()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    file = tmp_path / "all.prompts"
    file.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in PROMPTS))
    teacher = load_teacher(builder.teacher(tmp_path / "model", file))
    theirs = builder.called(pipe, 3, 1.0, "latent")
    labels = builder.labels_of(teacher)
    ours = sample_teacher(teacher, builder.noise(), labels, "euler", 3, 1.0)
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.std().item(), rtol=1e-4)
    student = new_student(teacher, None, 0)
    save_denoiser(student, tmp_path / "student", {})
    monkeypatch.chdir(tmp_path)
    exec(usage(student, "student"), {})
    assert (tmp_path / "image.png").is_file()
    add_variant(tmp_path / "student", "fp16", student.left_out)
    assert (tmp_path / "student/transformer/diffusion_pytorch_model.fp16.safetensors").is_file()


def test_an_encoder_that_the_index_calls_automodel_is_read_as_any_other(tmp_path):
    config = settings_of("lumina2", tmp_path)
    folder = Path(config.output)
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "AutoModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    part = folder / "text_encoder"
    encoder = transformers.AutoModel.from_pretrained(part)
    encoder.to(torch.bfloat16).save_pretrained(part)
    opened = load_parts(folder, index, {"text_encoder"})["text_encoder"]
    assert type(opened) is type(encoder) and opened.dtype == torch.float32
    (file,) = part.glob("*.safetensors")
    weights = load_file(file)
    weights.pop(sorted(weights)[0])
    save_file(weights, file, {"format": "pt"})
    assert "no weights for" in refused(config)


def test_steps_that_diffusers_cannot_take_are_told(tmp_path):
    config = settings_of("sd1", tmp_path)
    teacher = load_teacher(config)
    student = new_student(teacher, None, 0, StudentConfig(times=[999, 600], renoise=False))
    assert student.call_settings is None and "jobs/sample.py" in usage(student, "x")
    with pytest.raises(UserError, match=r"distill\.student\.times: 0\.5 is no time .* whole train"):
        new_student(teacher, None, 0, StudentConfig(times=[999, 0.5]))


def test_a_time_at_which_the_network_is_not_asked_is_none(tmp_path):
    teacher = load_teacher(settings_of("sana", tmp_path))
    with pytest.raises(UserError, match=r"times: 0\.7777 is no time .* multiples of 1/1000 from"):
        new_student(teacher, None, 0, StudentConfig(times=[0.7777]))
    for part in range(1, 1001):
        few_step_sampler(teacher.schedule, StudentConfig(times=[part / 1000]))
        assert teacher.position(torch.tensor(part / 1000)) == part


@pytest.mark.parametrize("version", ["flux-dev", "flux-schnell", "sd3"])
def test_the_fingerprint_covers_guidance_where_it_is_an_input(tmp_path, version):
    config = settings_of(version, tmp_path)
    less = config.model_copy(update={"embedded_guidance": 1.0})
    changed = teacher_fingerprint(less) != teacher_fingerprint(config)
    assert changed == (version == "flux-dev")


@pytest.mark.parametrize("channels", [8, 9])
def test_networks_that_are_given_more_than_latents_are_refused(tmp_path, channels):
    """Those that edit images, and those that fill a hole."""
    unet = save_tiny(tmp_path / "model") / "unet"
    config = json.loads((unet / "config.json").read_text()) | {"in_channels": channels}
    UNet2DConditionModel.from_config(config).save_pretrained(unet)
    with pytest.raises(UserError, match=f"takes {channels} channels of latents, its VAE makes 4"):
        load_teacher(TeacherConfig(output=str(unet.parent)))


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
    for entry, told in (
        (["kolors.text_encoder", "ChatGLMModel"], r"is a kolors\.\w+\.\w+, code that is never run"),
        (["pipeline_utils", "torch"], "pipeline_utils has no torch; pip install --upgrade diff"),
    ):
        index.write_text(json.dumps(json.loads(whole) | {"text_encoder": entry}))
        with pytest.raises(UserError, match=told):
            load_teacher(config)
    index.write_text(whole)
    next((folder / "text_encoder").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match=f"no {folder}/text_encoder/model.safetensors"):
        load_teacher(config)


@pytest.mark.parametrize("entry", [[], "CLIPTokenizer", ["transformers"], [None, "x"], [1, 2], {}])
def test_an_index_that_is_torn_is_named(tmp_path, entry):
    folder = save_tiny(tmp_path / "model")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"tokenizer": entry}))
    told = re.escape(f"{index}: tokenizer is {json.dumps(entry)}, not a library and its class")
    with pytest.raises(UserError, match=told):
        load_teacher(TeacherConfig(output=str(folder)))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (["my_pipeline", "MyPipeline"], r"is a my_pipeline\.MyPipeline with a UNet2DConditionM"),
        (None, "is a UNet2DConditionModel, which no family reads"),
    ],
)
def test_a_pipeline_of_its_own_or_none_is_named(tmp_path, name, told):
    folder = save_tiny(tmp_path / "model")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": name}))
    with pytest.raises(UserError, match=told):
        load_teacher(TeacherConfig(output=str(folder)))
    index.write_text("[]")
    with pytest.raises(UserError, match=f"cannot read {index} .it holds no JSON object"):
        load_teacher(TeacherConfig(output=str(folder)))


@pytest.mark.parametrize(
    "part", ["unet", "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2"]
)
@pytest.mark.parametrize("entry", [[None, None], None])
def test_a_part_that_it_cannot_do_without_is_named(tmp_path, part, entry):
    folder = save_tiny(tmp_path / "model", "sdxl" if part.endswith("2") else "sd1")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: entry}))
    with pytest.raises(UserError, match=f"not supported: its model_index.json has no {part}; "):
        load_teacher(TeacherConfig(output=str(folder)))


@pytest.mark.parametrize("version", ["sd1", "sdxl", "flux-dev"])
@pytest.mark.parametrize("task", ["Img2Img", "Inpaint"])
def test_a_pipeline_that_starts_from_an_image_is_told_so(tmp_path, version, task):
    folder = save_tiny(tmp_path / "model", version)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = index["_class_name"].replace("Pipeline", f"{task}Pipeline")
    (folder / "model_index.json").write_text(json.dumps(index))
    told = f"is a {index['_class_name']} .*starts from an image, .*name the base model; run jobs/"
    with pytest.raises(UserError, match=told):
        load_teacher(TeacherConfig(output=str(folder)))


def test_the_unet_of_the_refiner_is_told_so(tmp_path):
    """Its UNet is told five numbers: a score instead of the size after cropping."""
    folder = save_tiny(tmp_path / "model", "sdxl")
    config = UNet2DConditionModel.load_config(folder / "unet") | {
        "projection_class_embeddings_input_dim": 6 + 5 * 4,
        "cross_attention_dim": 8,
    }
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="an aesthetic score, as the XL refiner's: .*base model"):
        load_teacher(TeacherConfig(output=str(folder)))


def without_the_first_encoder(folder: Path, *parts: str) -> TeacherConfig:
    """An SDXL whose UNet takes the second encoder alone; the parts are null in its index."""
    save_tiny(folder, "sdxl")
    config = UNet2DConditionModel.load_config(folder / "unet") | {"cross_attention_dim": 8}
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    file = folder / "tokenizer_2" / "tokenizer.json"  # the two tell prompts apart by their words
    content = file.read_text().replace('"a</w>"', '"?"').replace('"b</w>"', '"a</w>"')
    file.write_text(content.replace('"?"', '"b</w>"'))
    index = folder / "model_index.json"
    whole = json.loads(index.read_text())
    index.write_text(json.dumps(whole | dict.fromkeys(parts, [None, None])))
    return TeacherConfig(output=str(folder), negative_prompt="a b a")


def test_a_tokenizer_goes_with_the_encoder_of_its_name(tmp_path):
    both = without_the_first_encoder(tmp_path / "both", "text_encoder", "tokenizer")
    one = without_the_first_encoder(tmp_path / "one", "text_encoder")
    right, left = (load_teacher(config).conditioner.null(1) for config in (both, one))
    assert all(torch.equal(right[name], left[name]) for name in ("tokens", "pooled"))
    other = without_the_first_encoder(tmp_path / "other", "tokenizer")
    with pytest.raises(UserError, match="model_index.json has text_encoder, but no tokenizer:"):
        load_teacher(other)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "text_encoder_2"])
def test_there_is_no_fingerprint_of_a_folder_that_lost_a_part(tmp_path, part):
    config = TeacherConfig(output=str(save_tiny(tmp_path / "model", "sdxl")))
    (tmp_path / "model" / part).rename(tmp_path / "gone")
    for read in (teacher_fingerprint, *([vae_fingerprint, load_vae] if part == "vae" else [])):
        with pytest.raises(UserError, match=f"no .*model/{part}, which model_index.json names: co"):
            read(config)
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: [None, None]}))
    teacher_fingerprint(config)
