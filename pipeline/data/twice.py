"""One bad answer of a store is not yet damage."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pipeline.utils.errors import DamagedError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def twice(read: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The same function, which reads once more before it raises DamagedError."""

    @wraps(read)
    def patient(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return read(*args, **kwargs)
        except DamagedError:
            return read(*args, **kwargs)

    return patient
