"""From folders and settings to networks, and one clear line for every bad folder."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import GaussianConfig, NetworkConfig, TeacherConfig
from pipeline.models.families.edm import new_unet
from pipeline.models.families.gaussian import GaussianMixture, gaussian_teacher
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_denoiser, load_teacher, teacher_fingerprint
from pipeline.models.students import load_student, new_student
from pipeline.utils.errors import UserError
from tests.fixtures.denoise import denoise

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

NETWORK = NetworkConfig(channels=(8, 16), attention=(False, False), norm_groups=4)
CLASSES = torch.tensor([0, 1, 2, 0])


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether all weights of two networks are the same bits."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_saved_network_comes_back_bit_for_bit(tiny: Callable[..., UNet2D], folder: Path) -> None:
    saved, loaded = tiny(), load_denoiser(folder, "")
    assert same(saved, loaded)
    assert (loaded.schedule, loaded.prediction) == (saved.schedule, saved.prediction)
    assert (loaded.shape, loaded.classes) == ((1, 8, 8), 3)
    x_t, t = torch.randn(4, 1, 8, 8), torch.tensor([0.01, 1.0, 10.0, 80.0])
    with torch.no_grad():
        assert torch.equal(denoise(saved, x_t, t, CLASSES), denoise(loaded, x_t, t, CLASSES))


def test_teacher_and_saved_student_are_frozen(folder: Path) -> None:
    for network in (load_teacher(TeacherConfig(output=str(folder))), load_student(folder)):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def test_the_gaussian_teacher_follows_its_settings() -> None:
    gaussian = GaussianConfig(shape=(1, 4, 4), classes=5)
    teacher = load_teacher(TeacherConfig(kind="gaussian", gaussian=gaussian, delay=0.5))
    assert isinstance(teacher, GaussianMixture) and not teacher.training
    assert (teacher.shape, teacher.classes, teacher.delay) == ((1, 4, 4), 5, 0.5)


def test_a_new_network_is_a_function_of_the_seed_alone() -> None:
    first = new_unet(NETWORK, (1, 8, 8), 3, seed=5)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    second = new_unet(NETWORK, (1, 8, 8), 3, seed=5)
    assert same(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(first, new_unet(NETWORK, (1, 8, 8), 3, seed=6))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 4)])
def test_a_new_network_hears_image_time_and_class(shape: tuple[int, int, int]) -> None:
    network = new_unet(NETWORK, shape, 3, seed=0).eval()
    x, t, label = torch.randn(1, *shape), torch.ones(1), torch.zeros(1, dtype=torch.int64)
    output = denoise(network, x, t, label)
    assert output.shape == x.shape and network.shape == shape
    inputs = network.unet(x, t, label).sample
    for other in (
        network.unet(x + 0.5 * torch.randn_like(x), t, label).sample,
        network.unet(x, t + 1, label).sample,
        network.unet(x, t, label + 1).sample,
    ):
        assert (other - inputs).abs().max() > 1e-4


def test_a_student_is_a_trainable_copy_of_the_teacher(folder: Path) -> None:
    teacher = load_teacher(TeacherConfig(output=str(folder)))
    student = new_student(teacher, NETWORK, seed=1)
    assert same(student, teacher) and not student.training, "no dropout"
    with torch.no_grad():
        for weight in student.parameters():
            assert weight.requires_grad
            weight.add_(1)
    assert same(teacher, load_denoiser(folder, "")) and not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_the_student_of_an_analytic_teacher_is_a_new_network() -> None:
    student = new_student(gaussian_teacher((1, 8, 8), 3), NETWORK, seed=1)
    assert same(student, new_unet(NETWORK, (1, 8, 8), 3, seed=1))
    assert (student.shape, student.classes) == ((1, 8, 8), 3)
    assert all(weight.requires_grad for weight in student.parameters())


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(folder: Path) -> None:
    print_ = teacher_fingerprint(TeacherConfig(output=str(folder)))
    copy = TeacherConfig(output=str(shutil.copytree(folder, folder.with_name("copy"))))
    assert teacher_fingerprint(copy) == print_
    scheduler = Path(copy.output) / "scheduler" / "scheduler_config.json"
    change(scheduler, sigma_max=40.0)
    assert teacher_fingerprint(copy) != print_
    shutil.copy(folder / "scheduler" / scheduler.name, scheduler)
    assert teacher_fingerprint(copy) == print_
    weights = load_file(Path(copy.output) / WEIGHTS)
    weights["conv_in.bias"][0] += 1e-6
    save_file(weights, Path(copy.output) / WEIGHTS)
    assert teacher_fingerprint(copy) != print_


def test_the_fingerprint_of_a_formula_is_of_its_settings() -> None:
    def of(delay: float = 0.0, output: str = "", **gaussian: int) -> str:
        return teacher_fingerprint(
            TeacherConfig(
                kind="gaussian", delay=delay, output=output, gaussian=GaussianConfig(**gaussian)
            )
        )

    assert of() == of(delay=1.0) == of(output="elsewhere")
    assert of() != of(classes=3)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", WEIGHTS])
def test_no_fingerprint_without_every_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"no .*{name}: run jobs/teacher\.py"):
        teacher_fingerprint(TeacherConfig(output=str(folder)))


def test_a_missing_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model at .*nowhere: do this"):
        load_denoiser(tmp_path / "nowhere", "do this")
    with pytest.raises(UserError, match=r"nowhere: run jobs/teacher\.py, or set teacher\.output"):
        load_teacher(TeacherConfig(output=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"nowhere: run jobs/distill\.py.*evaluate\.student"):
        load_student(tmp_path / "nowhere")


def test_a_checkpoint_file_and_a_name_on_the_hub_have_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v1-5.safetensors").touch()
    for read in (load_teacher, teacher_fingerprint):
        for place in ("v1-5.safetensors", str(tmp_path / "v1-5.safetensors")):
            with pytest.raises(
                UserError,
                match=r"v1-5.safetensors is a file.*hf://owner/name@.*--import .*teacher.base",
            ):
                read(TeacherConfig(output=place))
        with pytest.raises(UserError, match=r"no model at sd-legacy/sd-v1-5: .*hf://owner/name@"):
            read(TeacherConfig(output="sd-legacy/sd-v1-5"))


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [None, "", "{", "\x00"])
def test_a_folder_without_its_configs_is_no_model(
    folder: Path, name: str, content: str | None
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"is no diffusers model: cannot read .*{name}"):
        load_denoiser(folder, "")


@pytest.mark.parametrize("name", ["SD3Transformer2DModel", None])
def test_another_network_is_named(folder: Path, name: str | None) -> None:
    change(folder / "unet" / "config.json", _class_name=name)
    with pytest.raises(UserError, match=f"{name}, which no family reads .*; do this$"):
        load_denoiser(folder, "do this")


@pytest.mark.parametrize("name", ["ScoreSdeVeScheduler", ["a", "b"], None])
def test_another_scheduler_is_named(folder: Path, name: object) -> None:
    change(folder / "scheduler" / "scheduler_config.json", _class_name=name)
    index = {"scheduler": ["diffusers", name]} if isinstance(name, str) else {"scheduler": None}
    change(folder / "model_index.json", **index)
    told = re.escape(f"scheduler {name} is not supported: name one that is, such as DDIMScheduler ")
    with pytest.raises(UserError, match=told) as error:
        load_denoiser(folder, "")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", [3, {"a": 1}, ["one"], ["one", None], []])
def test_a_class_name_that_is_none_is_named(folder: Path, name: object) -> None:
    for file in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        content = (folder / file).read_text()
        change(folder / file, _class_name=name)
        told = f"cannot read {folder / file} (its _class_name is {json.dumps(name)}; copy it once"
        with pytest.raises(UserError, match=re.escape(told)):
            load_denoiser(folder, "")
        (folder / file).write_text(content)
    load_denoiser(folder, "")


def refused(folder: Path) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(UserError, match=f"cannot load {folder}/unet: .+") as error:
        load_denoiser(folder, "")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5])
def test_truncated_weights_are_refused(folder: Path, part: float) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(part * len(data))])
    refused(folder)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    change(folder / "unet" / "config.json", block_out_channels=[8, 16])
    refused(folder)


def test_missing_weights_are_refused_and_not_left_random(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["conv_in.weight"]
    save_file(weights, folder / WEIGHTS)
    assert "no weights for conv_in.weight" in refused(folder)


class Trap:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_pickled_weights_are_refused_and_never_read(folder: Path) -> None:
    mark = folder / "executed"
    (folder / WEIGHTS).unlink()
    with (folder / "unet" / "diffusion_pytorch_model.bin").open("wb") as file:
        pickle.dump(Trap(mark), file)
    with pytest.raises(UserError, match="diffusion_pytorch_model.bin: neither pickles nor"):
        load_denoiser(folder, "")
    assert not mark.exists()
