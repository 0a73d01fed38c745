"""NVIDIA's EDM files: pickles of a tree of modules, read without running the code they carry."""

import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.models.pickles import Dtype, Unpickler, encode, refused
from pipeline.utils.errors import UserError

_KIND, _SOURCE = "EDM file", "where NVIDIA keeps it"


class Module:
    """One module of a file: names, numbers and tensors, and nothing that can be called.

    Attributes:
        kind: Name of its class.
        settings: What its constructor kept, such as `num_heads`.
        tensors: Its own weights and buffers.
        parts: Its modules, in the file's order.
    """

    kind: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    parts: dict[str, "Module"]

    def __init__(self, meta: dict[str, Any]):
        """Take `kind` and `state` from the record of a class; its source stays unread text."""
        self.kind = meta["class_name"]
        self.__setstate__(meta["state"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        members = {**state.get("_parameters", {}), **state.get("_buffers", {})}
        self.tensors = {name: value for name, value in members.items() if value is not None}
        self.parts = {**state.get("_modules", {})}
        self.settings = {name: value for name, value in state.items() if not name.startswith("_")}

    def walk(self, name: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and all below it, each with its dotted name from here."""
        yield name, self
        for key, part in self.parts.items():
            yield from part.walk(f"{name}.{key}".lstrip("."))


class _ModuleDict(Module):
    kind = "ModuleDict"


def read_edm(file: Path) -> Module:
    """The network of an EDM file: the module under its key "ema".

    Raises:
        UserError: If it cannot be read, is no such file, or asks for anything but the classes
            and functions that such a file needs. None of what it asks for is ever called.
    """
    try:
        with file.open("rb") as stream:
            content = Unpickler(stream, _STAND_INS, _KIND, _SOURCE).load()
        network = content["ema"]
        for _, module in network.walk():
            members = [*module.parts, *module.settings, *module.tensors, module.kind]
            values = module.tensors.values()
            if not all(isinstance(name, str) for name in members) or not all(
                isinstance(value, Tensor) for value in values
            ):
                raise TypeError("a module that is none")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}; name an EDM file") from error
    except Exception as error:  # whatever a pickle's opcodes may come to
        raise UserError(
            "is not whole, or no EDM file (a pickle of a network under the key 'ema'); "
            "get it from its source again"
        ) from error
    assert isinstance(network, Module)
    return network


def _scalar(dtype: Dtype, data: bytes) -> Any:
    (number,) = np.frombuffer(data, dtype.numpy)
    return number.item()


def _storage(data: bytes) -> Tensor:
    """A storage as a flat tensor; the file in the file may hold weights alone."""
    try:
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL:? ([\w.]+)", str(error)):
            raise refused(found[1], _KIND, _SOURCE) from error
        raise
    return torch.empty(0, dtype=storage.dtype).set_(storage)


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


_STAND_INS: dict[str, Any] = {
    "torch_utils.persistence._reconstruct_persistent_obj": Module,
    "torch.nn.modules.container.ModuleDict": _ModuleDict,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
    "torch.device": lambda *values: values,
    "torch.Size": tuple,
    "collections.OrderedDict": dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "dnnlib.util.EasyDict": dict,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": encode,
    **{f"torch.{k}": k for k, v in vars(torch).items() if isinstance(v, torch.dtype)},
}
"""What an EDM file may ask for -> what it gets in its place."""
