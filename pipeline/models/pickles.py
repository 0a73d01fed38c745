"""Pickles from elsewhere, read without calling anything that they ask for."""

import pickle
import re
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from pipeline.utils.errors import UserError


class Unpickler(pickle.Unpickler):
    """Puts inert stand-ins in the place of what a pickle asks for, and refuses all else by name.

    Args:
        stream: The file.
        stand_ins: What it may ask for, by its full name -> what it gets in its place.
        kind: Of file, for messages: "EDM file".
        source: Where the user finds a sound one, for messages.
    """

    def __init__(
        self, stream: IO[bytes], stand_ins: Mapping[str, Any], kind: str, source: str
    ) -> None:
        super().__init__(stream)
        self._stand_ins, self._kind, self._source = stand_ins, kind, source

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._stand_ins:
            raise refused(full, self._kind, self._source)
        return self._stand_ins[full]


def refused(name: str, kind: str, source: str) -> UserError:
    """The error of a pickle that asks for what its kind does not need."""
    return UserError(
        f"it asks for {name}, which no {kind} needs; nothing of it was run: take it from {source}"
    )


class Dtype:
    """What a pickled numpy dtype says, of numbers alone."""

    def __init__(self, code: str, *_: object):
        if not re.fullmatch("[biuf][1248]", code):
            raise UserError(f"it holds a numpy value of dtype {code}; only numbers are read")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise UserError(
                f"it holds a numpy value of byte order {state[1]}; known are <, > and ="
            )
        self.order = state[1]

    @property
    def numpy(self) -> np.dtype:
        """numpy's own."""
        return np.dtype(self.order + self.code)


class Array:
    """A pickled numpy array, of numbers alone.

    Attributes:
        values: The array itself.
    """

    values: np.ndarray

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(data, dtype.numpy)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


def encode(text: str, encoding: str) -> bytes:
    """Bytes as older pickles hold them, in latin1; no other codec is looked up."""
    if encoding != "latin1":
        raise UserError(f"it holds bytes encoded by {encoding}; only latin1 is read")
    return text.encode("latin1")
