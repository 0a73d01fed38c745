"""A model in one file becomes a folder that computes the same, or is refused by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import TeacherConfig
from pipeline.models.export.comfyui import save_comfyui
from pipeline.models.loading import load_teacher
from pipeline.models.single_file import SingleFile
from pipeline.stages.teacher import make_teacher
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.families import looked_up as looked_up
from tests.fixtures.original_layout import Weights, sd3, whole, write
from tests.fixtures.tiny_models import save_deep, save_tiny

VERSIONS = ("sd1", "sdxl")


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(version: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """A folder of diffusers, and its weights in the original layout."""
    folder = save_tiny(tmp_path_factory.mktemp("model") / version, version)
    return folder, whole(BUILDERS[version].open(folder))


@pytest.fixture(scope="module")
def base(version: str, model: tuple[Path, Weights], tmp_path_factory: Any) -> Path:
    """A folder of the same shapes with other weights."""
    return save_tiny(tmp_path_factory.mktemp("base") / version, version, seed=1)


@pytest.fixture
def job(tmp_path: Path, base: Path, capsys: Any) -> Callable[..., tuple[int, str]]:
    """Imports weights as a file; gives the exit code and what was said."""

    def run(weights: Weights, base: Path = base, name: str = "m.safetensors") -> tuple[int, str]:
        write(weights, tmp_path / name)
        words = ["--data.name", "null", "--import", str(tmp_path / name)]
        words += ["--teacher.base", str(base), "--teacher.output", str(tmp_path / "out")]
        code = main(Job(make_teacher, writes=("teacher",)), words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def latents(version: str, folder: Path) -> torch.Tensor:
    """Of the pipeline, with guidance."""
    builder: Any = BUILDERS[version]
    return torch.as_tensor(builder.called(builder.open(folder), 4, 3.0, "latent"))


def test_the_folder_of_a_file_makes_the_same_latents(
    version: str, model: Any, base: Path, job: Any, tmp_path: Path, looked_up: list[object]
) -> None:
    code, said = job(model[1])
    assert (code, looked_up) == (0, []), said
    assert torch.equal(latents(version, tmp_path / "out"), latents(version, model[0]))
    assert not torch.allclose(latents(version, base), latents(version, model[0]), atol=0.01)
    ours, theirs = (
        load_teacher(TeacherConfig(output=str(f))) for f in (tmp_path / "out", model[0])
    )
    x0 = torch.randn(1, *ours.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.decode(x0), theirs.decode(x0))


def test_so_does_that_of_stable_diffusion_3(tmp_path: Path) -> None:
    """Whose weights diffusers takes out of the file's, or joins anew."""
    builder: Any = BUILDERS["sd3"]
    pipe = builder.open(save_tiny(tmp_path / "model", "sd3"))
    torch.nn.init.eye_(pipe.text_encoder.text_projection.weight)
    pipe.save_pretrained(tmp_path / "model")
    file = write(sd3(pipe), tmp_path / "m.safetensors")
    base = save_tiny(tmp_path / "base", "sd3", seed=1)
    for weights in base.glob("*/*.safetensors"):
        weights.unlink()  # the file has all of them
    (tmp_path / "out").mkdir()
    SingleFile(file, base).save(tmp_path / "out")
    assert torch.equal(latents("sd3", tmp_path / "out"), latents("sd3", tmp_path / "model"))
    extra = "model.diffusion_model.joint_blocks.0.x_block.attn.proj.scale_weight"
    for weights, told in (
        ({extra: torch.ones(1)}, "x_block.attn.proj.scale_weight; scaled fp8 files are not read"),
        ({"joint_blocks.0.x": torch.ones(1)}, "the network does not take joint_blocks.0.x;"),
    ):
        write(sd3(pipe) | weights, file)
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        with pytest.raises(UserError, match=told):
            SingleFile(file, base).save(tmp_path / "out")
    cut = {
        key: value for key, value in sd3(pipe).items() if not key.endswith("x_embedder.proj.bias")
    }
    with pytest.raises(
        UserError, match="diffusers cannot convert its transformer: KeyError..x_emb"
    ):
        SingleFile(write(cut, file), base).save(tmp_path / "out")


def test_it_is_imported_once_and_from_one_file_and_base(
    model: Any, base: Path, job: Any, tmp_path: Path
) -> None:
    half = {name: value.half() for name, value in model[1].items()}
    assert job(half)[0] == 0
    made = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}
    saved = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance.keys() == {"imported", "sha256", "base"}
    assert "is imported already" in job(half)[1]
    assert "made otherwise" in job(model[1])[1]
    config = base / "vae" / "config.json"
    before = config.read_text()
    config.write_text(before + "\n")
    assert "made otherwise" in job(half)[1]
    config.write_text(before)
    assert made == {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}


def test_what_the_file_does_not_hold_is_the_bases(
    version: str, model: Any, base: Path, job: Any, tmp_path: Path
) -> None:
    """A backbone alone, with its beginning or bare; of the base no weights of it are needed."""
    start = "model.diffusion_model."
    alone = {name: value for name, value in model[1].items() if name.startswith(start)}
    bare = {name.removeprefix(start): value for name, value in alone.items()}
    unet = BUILDERS[version].open(model[0]).unet.state_dict()
    for weights in (alone, bare, unet):
        code, said = job(weights)
        assert code == 0, said
        made = BUILDERS[version].open(tmp_path / "out")
        assert all(torch.equal(made.unet.state_dict()[name], unet[name]) for name in unet)
        own = load_file(base / "text_encoder" / "model.safetensors")
        copied = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
        assert all(torch.equal(copied[name], own[name]) for name in own)
        for file in sorted((tmp_path / "out").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


@pytest.mark.parametrize("version", VERSIONS)
def test_all_blocks_of_the_real_unets_come_back(version: str, tmp_path: Path) -> None:
    folder = save_deep(tmp_path / "model", version)
    unet = BUILDERS[version].open(folder).unet.state_dict()
    file = write(whole(BUILDERS[version].open(folder)), tmp_path / "m.safetensors")
    for weights in folder.glob("*/*.safetensors"):
        weights.unlink()  # the file has all of them
    (tmp_path / "out").mkdir()
    SingleFile(file, folder).save(tmp_path / "out")
    made = BUILDERS[version].open(tmp_path / "out").unet.state_dict()
    assert all(torch.equal(made[name], unet[name]) for name in unet)


def test_our_own_file_for_comfyui_comes_back(tmp_path: Path, capsys: Any) -> None:
    folder = save_deep(tmp_path / "model")
    network: Any = load_teacher(TeacherConfig(output=str(folder)))
    save_comfyui(network, folder, "s")
    words = ["--data.name", "null", "--import", str(folder / "comfyui" / "s.safetensors")]
    words += ["--teacher.base", str(folder), "--teacher.output", str(tmp_path / "out")]
    assert main(Job(make_teacher), words) == 0, capsys.readouterr().err
    made: Any = load_teacher(TeacherConfig(output=str(tmp_path / "out")))
    for name, value in network.unet.state_dict().items():
        assert torch.equal(made.unet.state_dict()[name], value.half().float())


ONE = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
CHANGES: dict[str, tuple[Callable[[Weights], object], str]] = {
    "a weight less": (
        lambda w: w.pop("first_stage_model.decoder.mid.block_1.conv1.weight"),
        r"cannot load vae: no weights for decoder.mid_block.resnets.0.conv1.weight",
    ),
    "one more within": (
        lambda w: w.update({ONE.replace("to_q", "to_x"): torch.ones(1)}),
        r"cannot load unet: the network does not take down_blocks.0.attentions.0.*to_x.weight",
    ),
    "one more at an end": (
        lambda w: w.update({"model.diffusion_model.out.3.weight": torch.ones(1)}),
        r"the network does not take model.diffusion_model.out.3.weight",
    ),
    "one of nothing": (
        lambda w: w.update({"edm_mean": torch.ones(1)}),
        r"cannot load unet: the network does not take edm_mean",
    ),
    "one of no text encoder": (
        lambda w: w.update({"conditioner.embedders.1.model.more": torch.ones(1)}),
        r"cannot load .*: the network does not take conditioner.embedders.1.model.more",
    ),
    "another shape": (
        lambda w: w.update({ONE: torch.ones(2, 2)}),
        r"cannot load unet: of another shape are down_blocks.0.*to_q.weight",
    ),
    "scaled fp8": (
        lambda w: w.update({ONE.replace("weight", "scale_weight"): torch.ones(1)}),
        r"does not take down_blocks.*to_q.scale_weight; scaled fp8 files are not read",
    ),
    "a LoRA": (
        lambda w: w.update({ONE.replace("weight", "lora_A.weight"): torch.ones(1)}),
        r"does not take down_blocks.*lora_A.weight; a LoRA is still in it",
    ),
    "another noise": (
        lambda w: w.update(alphas_cumprod=torch.linspace(0.99, 0.01, 1000)),
        r"m.safetensors has another noise \(alphas_cumprod\) than the scheduler of .*teacher.base",
    ),
    "v": (
        lambda w: w.update(v_pred=torch.ones(0)),
        r"predicts v \(v_pred\), the scheduler of .* says epsilon; set teacher.base to another",
    ),
    "zero terminal SNR": (
        lambda w: w.update(ztsnr=torch.ones(0)),
        r"has zero terminal SNR \(ztsnr\), the scheduler of .* has not",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_named_and_nothing_remains(
    model: Any, job: Any, tmp_path: Path, change: str
) -> None:
    weights = dict(model[1])
    CHANGES[change][0](weights)
    code, said = job(weights)
    assert code == 2 and "teacher.file: " in said and str(tmp_path / ".out") not in said
    assert re.search(CHANGES[change][1], said), said
    assert left(tmp_path) == ["m.safetensors"]


def test_other_files_and_bases_are_refused(
    model: Any, base: Path, job: Any, tmp_path: Path, capsys: Any
) -> None:
    assert (
        "m.ckpt is a pickle, which may run code and is not read" in job(model[1], name="m.ckpt")[1]
    )
    assert "needs a .safetensors in teacher.file" in job(model[1], name="m.pkl")[1]
    assert "teacher.base: " in job(model[1], tmp_path / "gone")[1]
    pixels = save_tiny(tmp_path / "pixels", "ddpm")
    assert "single files are read of models on latents alone" in job(model[1], pixels)[1]
    words = ["--data.name", "null", "--run", str(tmp_path), "--import"]
    assert main(Job(make_teacher), [*words, str(tmp_path / "m.safetensors")]) == 2
    assert re.search(
        "teacher.base: null, but .*m.safetensors holds neither", capsys.readouterr().err
    )
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    words += [str(tmp_path / "cut.safetensors"), "--teacher.base", str(base)]
    assert main(Job(make_teacher), words) == 2
    assert re.search("teacher.file: cannot read .*cut.safetensors", capsys.readouterr().err)
    assert not {"out", "teacher"} & {*left(tmp_path)}
