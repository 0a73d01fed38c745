"""What ComfyUI gets: the UNet under diffusers' names, and a graph of one step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import NetworkConfig, StudentConfig, TeacherConfig
from pipeline.models.export.comfyui import save_comfyui
from pipeline.models.export.comfyui.check import check_comfyui
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_teacher
from pipeline.models.lora import merged
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_deep


@pytest.mark.parametrize(
    ("version", "clips"),
    [("sd1", ["s-clip.safetensors"]), ("sdxl", ["s-clip-1.safetensors", "s-clip-2.safetensors"])],
)
def test_one_file_and_a_graph_of_one_step(tmp_path: Path, version: str, clips: list[str]) -> None:
    folder = save_deep(tmp_path / "model", version)
    network = load_teacher(TeacherConfig(output=str(folder)))
    check_comfyui(network)
    how = save_comfyui(network, folder, "s")
    saved = load_file(folder / "comfyui" / "s.safetensors")
    unet = network.unet.state_dict()
    assert saved.keys() == unet.keys()
    assert all(torch.equal(saved[name], unet[name].half()) for name in unet)
    graph = json.loads((folder / "comfyui" / "workflow.json").read_text())
    nodes = {node["class_type"]: node["inputs"] for node in graph.values()}
    for inputs in nodes.values():
        for value in inputs.values():
            assert not isinstance(value, list) or (value[0] in graph and value[1] == 0)
    assert nodes["KSamplerSelect"] == {"sampler_name": "euler"}
    first, last = map(float, nodes["ManualSigmas"]["sigmas"].split(", "))
    assert first == pytest.approx(14.6146, abs=1e-4) and last == 0
    assert {key: nodes["SamplerCustom"][key] for key in ("cfg", "add_noise")} == {
        "cfg": 1.0,
        "add_noise": True,
    }
    assert nodes["EmptyLatentImage"] == {"width": 16, "height": 16, "batch_size": 1}
    loader = nodes["CLIPLoader" if version == "sd1" else "DualCLIPLoader"]
    assert [value for key, value in loader.items() if key.startswith("clip_name")] == clips
    if version == "sdxl":
        sizes = nodes["CLIPTextEncodeSDXL"]
        assert [sizes[key] for key in ("width", "target_width", "crop_w")] == [16, 16, 0]
    copies = [line.split() for line in how.splitlines() if line.startswith("cp ")]
    assert all((folder / source).is_file() for _, source, _ in copies)
    copied = {target.rpartition("/")[2] for _, _, target in copies}
    named = {
        value
        for inputs in nodes.values()
        for value in inputs.values()
        if str(value).endswith(".safetensors")
    }
    assert copied == named, "every file that the graph loads is put there"


@pytest.mark.parametrize(("version", "last"), [("sd1", "s-clip"), ("sdxl", "s-clip-2")])
def test_text_encoders_have_the_names_comfyui_knows(
    tmp_path: Path, version: str, last: str
) -> None:
    folder = save_deep(tmp_path / "model", version)
    save_comfyui(load_teacher(TeacherConfig(output=str(folder))), folder, "s")
    files = sorted((folder / "comfyui").glob("s-clip*.safetensors"))
    names = {file.stem: set(load_file(file)) for file in files}
    for each in names.values():
        assert "text_model.encoder.layers.2.mlp.fc1.weight" in each
        strange = {name for name in each if not name.startswith("text_model.")}
        assert strange <= {"text_projection.weight"}
    assert ("text_projection.weight" in names[last]) == (version == "sdxl")


@pytest.mark.parametrize("version", ["sd1", "sdxl"])
def test_adapters_have_the_names_comfyui_knows_and_make_the_student(
    tmp_path: Path, version: str
) -> None:
    """Its loader adds alpha / rank * up @ down to the weight whose name has _ for every dot."""
    folder = save_deep(tmp_path / "model", version)
    teacher = load_teacher(TeacherConfig(output=str(folder)))
    settings = StudentConfig(lora={"rank": 4, "alpha": 6.0})
    student = new_student(teacher, NetworkConfig(), 0, settings)
    with torch.no_grad():
        for name, weight in student.named_parameters():
            if ".lora_B." in name:
                weight.normal_()
    whole = merged(student)
    assert "s-lora.safetensors" in save_comfyui(whole, folder, "s")
    file = load_file(folder / "comfyui" / "s-lora.safetensors")
    added = teacher.unet.state_dict()
    for name in [name for name in added if name.endswith(".weight")]:
        key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        if f"{key}.alpha" in file:
            up, down = (file.pop(f"{key}.lora_{each}.weight").float() for each in ("up", "down"))
            added[name] = added[name] + file.pop(f"{key}.alpha") / len(down) * up @ down
    assert not file, "all of its names are those of weights"
    for name, weight in whole.unet.state_dict().items():
        torch.testing.assert_close(added[name], weight, atol=5e-3, rtol=5e-3)
    learnt = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight"
    if version == "sd1":
        difference = added[learnt] - teacher.unet.state_dict()[learnt]
        assert difference.abs().max() > 0.1


def test_other_families_are_refused_by_name(tiny: Callable[..., UNet2D], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="export.comfyui: the student is a ConsistencyModelPipel"):
        check_comfyui(tiny())
    folder = save_deep(tmp_path / "model", "sd2")
    network = load_teacher(TeacherConfig(output=str(folder)))
    with pytest.raises(UserError, match="export.comfyui: the student predicts v_prediction"):
        check_comfyui(network)
    network.prediction = "epsilon"
    check_comfyui(network)
    network.unet.register_to_config(cross_attention_dim=1024)
    with pytest.raises(UserError, match="export.comfyui: the student is a Stable Diffusion 2, of"):
        check_comfyui(network)
    network.unet.register_to_config(cross_attention_dim=16)
    network.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(UserError, match="the student takes guidance as an input"):
        check_comfyui(network)
    network.unet.register_to_config(time_cond_proj_dim=None)
    for version, problem in (("playground", "predicts edm, not"), ("cosxl", "predicts edm_v, not")):
        edm = load_teacher(TeacherConfig(output=str(save_deep(tmp_path / version, version))))
        with pytest.raises(UserError, match=f"export.comfyui: the student {problem}"):
            check_comfyui(edm)
    spread = save_deep(tmp_path / "spread", "sdxl") / "vae" / "config.json"
    own = {"latents_mean": [0.0] * 4, "latents_std": [2.0] * 4}
    spread.write_text(json.dumps(json.loads(spread.read_text()) | own))
    with pytest.raises(UserError, match="VAE has latents_mean and latents_std"):
        check_comfyui(load_teacher(TeacherConfig(output=str(spread.parents[1]))))
    content = json.loads(spread.read_text()) | dict.fromkeys(own) | {"scaling_factor": 0.2}
    spread.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"VAE has the scale and shift \(0.2, 0.0\), not \(0.13"):
        check_comfyui(load_teacher(TeacherConfig(output=str(spread.parents[1]))))
    early = StudentConfig(times=[399])
    student = new_student(load_teacher(TeacherConfig(output=str(folder))), None, 0, early)
    student.prediction = "epsilon"
    with pytest.raises(UserError, match="the student starts at 399, not at 999"):
        check_comfyui(student)


OWN = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({"trained_betas": OWN.tolist(), "beta_schedule": "linear", "beta_end": 0.02}, True),
        ({"trained_betas": (1.01 * OWN).tolist()}, False),
        ({"trained_betas": OWN[:-1].tolist(), "num_train_timesteps": 999}, True),
        ({"trained_betas": [*OWN.tolist(), 0.012], "num_train_timesteps": 1001}, False),
        ({"beta_end": 0.0121}, False),
        ({"beta_schedule": "linear"}, False),
    ],
)
def test_noise_is_comfyuis_own_whatever_settings_make_it(
    tmp_path: Path, settings: dict[str, Any], fits: bool
) -> None:
    folder = save_deep(tmp_path / "model", "sd1")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    network = load_teacher(TeacherConfig(output=str(folder)))
    if fits:
        check_comfyui(network)
        return
    with pytest.raises(UserError, match="the noise schedule of the student is not Stable Diff"):
        check_comfyui(network)


SSD_1B = {
    "transformer_layers_per_block": ((0, 0), (2, 2), (4, 4)),
    "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), (0, 0, 0)),
    "mid_block_type": None,
}


@pytest.mark.parametrize(
    ("version", "unet", "depths"),
    [
        ("sd1", {"layers_per_block": 1}, r"\(\(1, 1, 1, 0\), 1, \(0, 0, 1, 1, 1, 1, 1, 1\)\)"),
        ("sd1", {"mid_block_type": None}, r"1, 0, 0\), -2, \(0,"),
        ("sdxl", {"transformer_layers_per_block": (1, 2, 4)}, r"4, 4\), 4, \(4,"),
        ("sdxl", SSD_1B, r"4, 4\), -2, \(4, 4, 10, 2, 1, 1, 0"),
    ],
)
def test_a_unet_of_another_depth_is_refused_by_its_depth(
    tmp_path: Path, version: str, unet: dict[str, Any], depths: str
) -> None:
    """Smaller Stable Diffusions have fewer layers in a block, or no middle."""
    folder = save_deep(tmp_path / "model", version, **unet)
    with pytest.raises(UserError, match=f"ComfyUI knows no UNet of these .* up: .*{depths}.*;"):
        check_comfyui(load_teacher(TeacherConfig(output=str(folder))))


def test_smaller_ones_that_comfyui_knows_pass(tmp_path: Path) -> None:
    folder = save_deep(tmp_path / "model", "sdxl", **SSD_1B | {"mid_block_type": "UNetMidBlock2D"})
    check_comfyui(load_teacher(TeacherConfig(output=str(folder))))
