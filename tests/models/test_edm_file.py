"""NVIDIA's EDM files: what they compute is kept, and what they carry as code is never run."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from pipeline.config import NetworkConfig, TeacherConfig
from pipeline.diffusion.noise import EDM
from pipeline.models.edm_file import read_edm
from pipeline.models.edm_import import import_edm
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_denoiser, load_teacher, teacher_fingerprint
from pipeline.models.sampling import sample_student
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.fixtures.denoise import denoise
from tests.fixtures.edm_file import EasyDict, Persistent, dump, network
from tests.models.edm_reference import denoised, raw

BAR = 1e-5
"""Largest difference to the reference, as a part of its largest value; float32 alone is 2e-6."""
SIGMA = torch.tensor([0.002, 0.3, 3.0, 80.0])
LABELS = torch.tensor([0, 3, 9, 3])


def written(file: Path, content: Any, protocol: int = 4) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else dump(content, protocol))
    return file


def small(**changes: Any) -> Persistent:
    """A DDPM++ of a hundred kilobytes."""
    return network("ddpmpp", size=4, channels=8, mult=(1, 2), blocks=1, **changes)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize(
    "case",
    [
        {"family": "adm"},
        {"family": "adm", "classes": 0, "augment": 0, "mult": (1, 1)},
        {"family": "adm", "mult": (1, 2, 1), "attention": (8, 4)},
        {"family": "ddpmpp"},
        {"family": "ddpmpp", "classes": 0, "augment": 0},
        {"family": "ddpmpp", "channels": 16, "mult": (2, 2, 4), "attention": (4,), "size": 16},
    ],
    ids=str,
)
def test_it_computes_what_the_file_says(tmp_path: Path, case: dict[str, Any]) -> None:
    """Raw network and x0, in float32, against float64 from the names in the file."""
    made = network(**case)
    imported = import_edm(written(tmp_path / "edm.pkl", {"ema": made})).eval()
    classes, size = case.get("classes", 10), case.get("size", 8)
    labels = LABELS if classes else None
    assert (imported.shape, imported.classes) == ((3, size, size), classes or None)
    x, weights = torch.randn(4, 3, size, size), made.state_dict()
    expected = raw(weights, x.double(), SIGMA.double().log() / 4, labels)
    assert expected.std() > 0.1
    assert difference(imported.unet(x, SIGMA.log() / 4, labels).sample, expected) < BAR
    x_t = SIGMA.view(-1, 1, 1, 1) * x
    expected = denoised(weights, x_t.double(), SIGMA.double(), labels)
    assert difference(denoise(imported, x_t, SIGMA, labels), expected) < BAR


@pytest.fixture(scope="module", params=["adm", "ddpmpp"])
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UNet2D:
    file = tmp_path_factory.mktemp(request.param) / "edm.pkl"
    return import_edm(written(file, {"ema": network(request.param, mult=(1, 1))})).eval()


@pytest.fixture(scope="module")
def saved(imported: UNet2D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "teacher"
    save_denoiser(imported, folder, {})
    return folder


@torch.no_grad()
def test_its_folder_is_a_teacher_with_the_same_bits(imported: UNet2D, saved: Path) -> None:
    config = TeacherConfig(output=str(saved))
    teacher, x = load_teacher(config), torch.randn(4, 3, 8, 8)
    assert isinstance(teacher, UNet2D)
    assert torch.equal(denoise(teacher, x, SIGMA, LABELS), denoise(imported, x, SIGMA, LABELS))
    assert (teacher.schedule, teacher.prediction) == (EDM(0.002, 80.0, 0.5, 7.0), "edm")
    assert (teacher.shape, teacher.classes) == ((3, 8, 8), 10)
    before = teacher_fingerprint(config)
    other = load_denoiser(saved, "")
    other.unet.conv_in.bias += 1e-3
    save_denoiser(other, saved.with_name("other"), {})
    assert teacher_fingerprint(TeacherConfig(output=str(saved.with_name("other")))) != before


@torch.no_grad()
def test_diffusers_opens_the_folder(imported: UNet2D, saved: Path) -> None:
    """With `SongUNet` imported before, which the import of this file does."""
    pipe = DiffusionPipeline.from_pretrained(saved)
    rng = torch.Generator().manual_seed(1)
    made = pipe(4, LABELS, 1, generator=rng, output_type="pt").images
    noise = torch.randn(4, 3, 8, 8, generator=rng.manual_seed(1)) * (80.0**2 + 1) ** 0.5 / 80.0
    expected = (sample_student(imported, noise, LABELS) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made, expected, atol=BAR, rtol=0)


def test_a_student_learns_from_it_with_and_without_recomputing(imported: UNet2D) -> None:
    """The same gradients; with recomputing a block is run twice, without it once."""
    x, gradients = torch.randn(2, 3, 8, 8), []
    for recompute, runs in ((False, 1), (True, 2)):
        student = new_student(imported, NetworkConfig(), 0, recompute=recompute)
        calls: list[nn.Module] = []
        block = next(part for part in student.modules() if isinstance(part, ResnetBlock2D))
        block.register_forward_pre_hook(lambda module, _, calls=calls: calls.append(module))
        denoise(student, x, SIGMA[1:3], LABELS[1:3]).square().mean().backward()
        assert len(calls) == runs
        gradients.append([weight.grad for weight in student.parameters()])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(weight.grad is None for weight in imported.parameters())
    assert not any(isinstance(m, nn.Dropout) and m.p for m in student.modules())


def test_training_snapshots_and_older_pickles_are_read(tmp_path: Path) -> None:
    """More keys, of classes that are no modules of torch; protocol 2 has other names for bytes."""
    content = {
        "ema": small(),
        "loss_fn": Persistent("EDMLoss", P_mean=-1.2),
        "dataset_kwargs": EasyDict(path="data.zip", use_labels=True),
        "where": [torch.device("cuda", 0), torch.float16, torch.Size([3])],
    }
    expected = content["ema"].state_dict()
    for protocol in (2, 4):
        root = read_edm(written(tmp_path / "snapshot.pkl", content, protocol))
        found = {
            f"{name}.{key}": tensor
            for name, module in root.walk()
            for key, tensor in module.tensors.items()
        }
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        block = root.parts["model"].parts["enc"].parts["4x4_block0"]
        assert (block.kind, block.settings["skip_scale"]) == ("UNetBlock", 0.5**0.5)


def refused(file: Path) -> str:
    with pytest.raises(UserError, match=f"teacher.file: {file}: .+") as error:
        import_edm(file)
    return str(error.value)


class Trap:
    """A pickle that runs a command when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


class Nested:
    """A storage in a pickle, as torch's own: bytes that are a torch file again."""

    def __init__(self, content: Any, zipped: bool):
        self.content, self.zipped = content, zipped

    def __reduce__(self) -> Any:
        stream = io.BytesIO()
        torch.save(self.content, stream, _use_new_zipfile_serialization=self.zipped)
        return torch.storage._load_from_bytes, (stream.getvalue(),)


def network_with(trap: Trap) -> Persistent:
    root = small()
    root.model.trap = trap
    return root


PLACES: dict[str, Callable[[Trap], Any]] = {
    "alone": lambda trap: trap,
    "as the network": lambda trap: {"ema": trap},
    "in the network": lambda trap: {"ema": network_with(trap)},
    "beside the network": lambda trap: {"ema": small(), "loss_fn": trap},
    "in a nested file": lambda trap: {"ema": small(), "loss_fn": Nested(trap, zipped=False)},
    "in a nested zip": lambda trap: {"ema": Nested(trap, zipped=True)},
    "in a nested file's list": lambda trap: {"ema": Nested([torch.zeros(1), trap], zipped=False)},
    "in a file in a nested file": lambda trap: {"ema": Nested([Nested(trap, False)], False)},
}


@pytest.mark.parametrize("place", PLACES)
def test_planted_code_is_named_and_not_run(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "executed"
    file = written(tmp_path / "edm.pkl", PLACES[place](Trap(mark)))
    message = refused(file)
    assert "nothing of it was run" in message
    culprit = "torch.storage._load_from_bytes" if "in a file" in place else "posix.system"
    assert f"asks for {culprit}" in message
    assert not mark.exists()
    pickle.loads(dump(Trap(mark)))  # the trap does work
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch._utils._rebuild_tensor",
        "torch.nn.modules.linear.Linear",
        "torch.serialization.add_safe_globals",
        "numpy.core.multiarray._reconstruct",
        "_codecs.decode",
        "copyreg._reconstructor",
        "pipeline.stages.teacher.make_teacher",
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n(S'1'\ntR.".encode()
    assert f"asks for {name}," in refused(written(tmp_path / "edm.pkl", call))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (b"cnumpy\ndtype\n(VO8\ntR.", "numpy value of dtype O8"),
        (b"cnumpy\ndtype\n(Vf4\ntR(I3\nVO,\ntb.", "numpy value of byte order O,"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "bytes encoded by rot13"),
    ],
)
def test_inert_values_are_of_numbers_and_bytes_alone(
    tmp_path: Path, call: bytes, message: str
) -> None:
    assert message in refused(written(tmp_path / "edm.pkl", call))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        dump({"ema": small()})[:-1000],
        {},
        {"ema": 1},
        [],
        {"ema": nn.ModuleDict()},
    ],
    ids=["empty", "text", "torn", "no ema", "a number", "a list", "a list of nothing"],
)
def test_what_is_no_edm_file_is_refused(tmp_path: Path, content: Any) -> None:
    assert "EDM" in refused(written(tmp_path / "edm.pkl", content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.pkl")
    assert "Is a directory" in refused(tmp_path)


def fourier(root: Persistent) -> None:
    root.model.map_noise = Persistent("FourierEmbedding", num_channels=8)


def ncsnpp(root: Persistent) -> None:
    root.model.enc["4x4_aux_residual"] = Persistent("Conv2d")


def other_filter(root: Persistent) -> None:
    root.model.enc["2x2_down"].conv0.resample_filter[0, 0, 0, 0] = 0.3


def of_block(**changes: Any) -> Callable[[Persistent], None]:
    def change(root: Persistent) -> None:
        for name, value in changes.items():
            setattr(root.model.enc["4x4_block0"], name, value)

    return change


def without_time(root: Persistent) -> None:
    del root.model.map_layer1


def without_label(root: Persistent) -> None:
    del root.model.map_label


def with_a_part(root: Persistent) -> None:
    root.model.out_gain = Persistent("Linear")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: setattr(root, "kind", "VPPrecond"), "a VPPrecond; known is EDMPrecond"),
        (lambda root: setattr(root.model, "kind", "MyUNet"), "is a MyUNet; known are Dhariwal"),
        (fourier, "model.map_noise is a FourierEmbedding"),
        (ncsnpp, r"4x4_aux_residual, which is not known.*NCSN\+\+"),
        (other_filter, r"2x2_down\.conv0 resamples by another filter"),
        (of_block(skip_scale=1.0), r"4x4_block0\.skip_scale is 1\.0; known is 0\.707"),
        (of_block(num_heads=2), r"4x4_block0\.num_heads is 2; known is 1"),
        (of_block(adaptive_scale=True), r"adaptive_scale is True; known is False"),
        (without_time, "not built as NVIDIA's are.*map_layer1"),
        (without_label, r"not built as NVIDIA's are.*class_embedding"),
        (with_a_part, "has out_gain, which is not known"),
    ],
)
def test_other_networks_are_refused_by_name(
    tmp_path: Path, change: Callable[[Persistent], None], message: str
) -> None:
    root = small()
    change(root)
    file = written(tmp_path / "edm.pkl", {"ema": root})
    with pytest.raises(UserError, match=message):
        import_edm(file)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"sigma_min": 0, "sigma_max": float("inf")}, (0.002, 80.0)),
        ({"sigma_min": 0.01, "sigma_max": 40}, (0.01, 40.0)),
        ({"sigma_min": 0.0001, "sigma_max": 40.0}, (0.002, 40.0)),
        ({"sigma_min": 0.02, "sigma_max": 100.0}, (0.02, 80.0)),
        ({}, (0.002, 80.0)),
    ],
)
def test_the_noise_ends_where_the_file_has_a_limit(
    tmp_path: Path, limits: dict[str, float], expected: tuple[float, float]
) -> None:
    """As NVIDIA's own sampler, which asks no network beyond its limits."""
    root = small()
    for name in ("sigma_min", "sigma_max"):
        delattr(root, name)
    for name, value in limits.items():
        setattr(root, name, value)
    imported = import_edm(written(tmp_path / "edm.pkl", {"ema": root}))
    assert imported.schedule == EDM(*expected, sigma_data=0.5)
    save_denoiser(imported, tmp_path / "saved", {})
    assert load_denoiser(tmp_path / "saved", "").schedule == imported.schedule


@pytest.mark.parametrize("limits", [(1.0, 0.5), (100.0, 200.0), (float("nan"), 80.0)])
def test_limits_that_leave_no_noise_are_refused(
    tmp_path: Path, limits: tuple[float, float]
) -> None:
    root = small()
    root.sigma_min, root.sigma_max = limits
    file = written(tmp_path / "edm.pkl", {"ema": root})
    assert "its sigma_min and sigma_max are" in refused(file)


def test_an_adm_of_few_channels_is_refused(tmp_path: Path) -> None:
    """Its norms have fewer groups than 32, which `UNet2DModel` cannot say."""
    file = written(tmp_path / "edm.pkl", {"ema": network("adm", channels=64)})
    assert "64 channels; an ADM is known from 128 up" in refused(file)
