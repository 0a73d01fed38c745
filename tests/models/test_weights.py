"""Weights in several files are read and counted as those in one; other kinds are refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from pipeline.config import TeacherConfig
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_denoiser, load_teacher, teacher_fingerprint
from pipeline.models.weights import weights_digest
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

NAME = "diffusion_pytorch_model"


def fingerprint(folder: Path) -> str:
    return teacher_fingerprint(TeacherConfig(output=str(folder)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same model with the UNet in several files."""
    copy = shutil.copytree(model, model.with_name("sharded"))
    (copy / WEIGHTS).unlink()
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    unet.save_pretrained(copy / "unet", max_shard_size="20KB")
    assert len(list((copy / "unet").glob(f"{NAME}-*.safetensors"))) > 1
    return copy


def test_a_network_in_several_files_is_the_same_network(model: Path, sharded: Path) -> None:
    whole, parts = (
        load_teacher(TeacherConfig(output=str(folder))).state_dict() for folder in (model, sharded)
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_every_file_of_it_is_in_the_fingerprint(sharded: Path) -> None:
    before = fingerprint(sharded), weights_digest(sharded)
    for file in sorted((sharded / "unet").glob(f"{NAME}*")):
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert fingerprint(sharded) != before[0] and weights_digest(sharded) != before[1], file
        file.write_bytes(content)
    assert (fingerprint(sharded), weights_digest(sharded)) == before


def test_a_part_that_is_missing_is_named(sharded: Path) -> None:
    last = max((sharded / "unet").glob(f"{NAME}-*.safetensors"))
    last.unlink()
    for read in (fingerprint, lambda folder: load_denoiser(folder, "")):
        with pytest.raises(UserError, match=f"no {last}, which {NAME}.*index.json names: copy it"):
            read(sharded)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 1}', "{}"])
def test_a_damaged_index_is_named(sharded: Path, content: str) -> None:
    index = sharded / f"{WEIGHTS}.index.json"
    index.write_text(content)
    with pytest.raises(UserError, match=f"{index} is damaged"):
        load_denoiser(sharded, "")


@pytest.mark.parametrize(
    "name", [f"{NAME}.fp16.safetensors", f"{NAME}.bin", f"{NAME}.non_ema.safetensors"]
)
def test_variants_and_pickles_alone_are_refused_by_name(model: Path, name: str) -> None:
    (model / WEIGHTS).rename(model / "unet" / name)
    for read in (fingerprint, lambda folder: load_denoiser(folder, "")):
        with pytest.raises(
            UserError, match=f"no .*{NAME}.safetensors, but {name}: neither pickles"
        ):
            read(model)


def test_what_is_not_read_is_not_in_the_fingerprint(model: Path) -> None:
    """So that a clone with everything and a copy from the Hub are one teacher."""
    before = fingerprint(model)
    for part, name in (
        ("unet", f"{NAME}.fp16.safetensors"),
        ("vae", f"{NAME}.bin"),
        ("text_encoder", "model.fp16.safetensors"),
        ("text_encoder", "flax_model.msgpack"),
        ("tokenizer", "README.md"),
        ("tokenizer", "chat_template.jinja"),  # of SANA's Gemma, say, which is not asked as a chat
    ):
        (model / part / name).write_text("more")
    assert fingerprint(model) == before
    (model / "vae" / f"{NAME}.safetensors").write_text("other")
    assert fingerprint(model) != before


def test_a_saved_network_says_nothing_of_places(
    tiny: Callable[..., UNet2D], model: Path, tmp_path: Path
) -> None:
    for number, network in enumerate((load_teacher(TeacherConfig(output=str(model))), tiny())):
        assert isinstance(network, torch.nn.Module)
        save_denoiser(network, tmp_path / f"saved-{number}", {})
        for file in (tmp_path / f"saved-{number}").rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
            json.loads(file.read_text())


def of(file: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Save a file's weights once more, changed."""
    save_file(change(load_file(file)), file, {"format": "pt"})


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as found:
        load_teacher(TeacherConfig(output=str(folder)))
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ("unet", {"mid_block_type": None}, r"does not take mid_block\.\S+, \S+, \S+ and \d\d more"),
        ("unet", {"layers_per_block": 2}, r"no weights for \S+, \S+, \S+ and \d+ more; of another"),
        ("text_encoder", {"num_hidden_layers": 2}, r"does not take \S+layers\.2\..* and \d+ more"),
        ("text_encoder", {"num_hidden_layers": 4}, r"no weights for \S+layers\.3\..* and \d+ more"),
        ("text_encoder", {"hidden_size": 24}, r"of another shape are .* and \d+ more"),
        ("vae", {"latent_channels": 8}, r"of another shape are .* and \d+ more"),
    ],
)
def test_a_config_of_another_network_is_refused(
    model: Path, part: str, values: dict[str, object], told: str
) -> None:
    file = model / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    problem = refused(model)
    assert problem.startswith(f"cannot load {model}/{part}: ") and re.search(told, problem)
    assert problem.endswith("copy both once more, from one model")


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        (
            "text_encoder",
            {"hidden_size": "x"},
            "'hidden_size': TypeError: .* got str",
        ),
        ("text_encoder", {"num_attention_heads": 3}, r"\(16\) is not a multiple of .* heads \(3\)"),
        ("text_encoder", {"hidden_act": "nope"}, r"KeyError\('nope'\)"),
        ("unet", {"down_block_types": ["A", "B"]}, "A does not exist"),
        ("vae", {"_class_name": None}, "the `_class_name` is of type string"),
    ],
)
def test_a_config_of_another_version_is_refused_with_its_cause(
    model: Path, part: str, values: dict[str, object], told: str
) -> None:
    file = model / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    problem = refused(model)
    assert re.match(f"cannot load {model}/{part}: .*{told}", problem), problem
    assert problem.endswith("; copy its config.json and weights once more, from one model")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_scaled_fp8_and_a_lora_that_is_still_in_it_have_their_own_way_out(
    model: Path, part: str
) -> None:
    (file,) = (model / part).glob("*.safetensors")
    whole = file.read_bytes()
    of(file, lambda found: {**found, "scaled_fp8": torch.ones(2).to(torch.float8_e4m3fn)})
    assert "take scaled_fp8; scaled fp8 files are not read: use the bf16" in refused(model)
    file.write_bytes(whole)
    scales = {f"{number}.scale_weight": torch.ones(()) for number in range(4)}
    of(file, lambda found: found | scales)
    told = "take 0.scale_weight, 1.scale_weight, 2.scale_weight and 1 more; scaled fp8 files are"
    assert told in refused(model)
    file.write_bytes(whole)
    of(
        file,
        lambda found: {
            re.sub("(q|to_q|q_proj)[.]weight", r"\1.base_layer.weight", k): v
            for k, v in found.items()
        },
    )
    assert "a LoRA is still in it: fuse_lora(); unload_lora_weights()" in refused(model)


def prompts_of(folder: Path) -> torch.Tensor:
    teacher = load_teacher(TeacherConfig(output=str(folder), negative_prompt="a cat"))
    return teacher.conditioner.null(1)["tokens"]


@pytest.mark.parametrize("shared", ["shared.weight", "encoder.embed_tokens.weight"])
def test_an_encoder_may_come_with_its_decoder_and_with_either_name_of_a_tied_weight(
    tmp_path: Path, shared: str
) -> None:
    folder = save_tiny(tmp_path / "model", "pixart-alpha")
    file, tokens = folder / "text_encoder" / "model.safetensors", prompts_of(folder)
    whole = T5ForConditionalGeneration(T5Config.from_pretrained(file.parent))
    others = {k: v.clone() for k, v in whole.state_dict().items() if k.startswith("decoder.")}
    others |= {"lm_head.weight": whole.shared.weight.detach().clone()}
    of(file, lambda found: {(shared if k == "shared.weight" else k): v for k, v in found.items()})
    of(file, lambda found: found | others)
    assert torch.equal(prompts_of(folder), tokens)


def test_an_encoder_may_have_old_names_the_positions_of_its_words_and_the_rest_of_clip(
    model: Path,
) -> None:
    file, tokens = model / "text_encoder" / "model.safetensors", prompts_of(model)
    beside = {"text_model.embeddings.position_ids": torch.arange(12)[None]}
    for name in ("text_projection.weight", "visual_projection.weight", "vision_model.x.weight"):
        beside[name] = torch.zeros(2, 2)
    beside["logit_scale"] = torch.tensor(4.6)
    of(file, lambda found: {f"text_model.{k}": v for k, v in found.items()} | beside)
    assert torch.equal(prompts_of(model), tokens)


def test_files_without_their_index_are_named(sharded: Path) -> None:
    index = sharded / f"{WEIGHTS}.index.json"
    index.unlink()
    for read in (fingerprint, lambda folder: load_denoiser(folder, "")):
        with pytest.raises(UserError, match=f"no {index}, but {NAME}-00001-of-.*: copy it there"):
            read(sharded)
