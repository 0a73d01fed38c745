"""Kinds of values that settings have, and what all their groups share."""

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.utils.uris import absolute


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] >= span[1]:
        raise ValueError("must rise, from a lower to a higher part")
    return span


def _falling(times: tuple[float, ...]) -> tuple[float, ...]:
    if list(times) != sorted(set(times), reverse=True):
        raise ValueError("must fall, from the noisiest time to the cleanest")
    return times


def _distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    for number, text in enumerate(texts):
        if text in texts[:number]:
            raise ValueError(f"must have each once, and {text!r} stands twice")
    return texts


def _every(value: object) -> object:
    if not isinstance(value, bool) and (not isinstance(value, int) or value < 2):
        raise ValueError("must be true, false, or a number n, 2 or more, for every n-th")
    return value


def _one_or_none(value: float) -> float:
    if value not in (0, 1):
        raise ValueError("must be 0 or 1")
    return value


def registered(table: str) -> Mapping[str, Any]:
    """A table, "module:NAME", if anything has imported it: a plugin that adds to it has.

    Nobody else needs it to judge a setting, and most tables take seconds to import.
    """
    module, _, name = table.partition(":")
    return getattr(sys.modules.get(module), name, {})


def one_of(table: str, *built_in: str) -> AfterValidator:
    """Accepts names that are built in, and those that a plugin has put into their table."""

    def check(name: str) -> str:
        choices = dict.fromkeys((*built_in, *registered(table)))
        if not choices:
            raise ValueError(f"there is no {name}; name the module that registers it in plugins")
        if name not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return name

    return AfterValidator(check)


def _found(name: str) -> str:
    """A local path from the root; what is none here stays, such as a name on the Hub."""
    path = os.path.abspath(os.path.expanduser(name))
    return path if os.path.exists(path) else name


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
OneOrNone = Annotated[float, AfterValidator(_one_or_none)]
Part = Annotated[float, Field(ge=0, le=1)]
Guidance = Annotated[float | None, Field(ge=0)]
Span = Annotated[tuple[Part, Part], Field(strict=False), AfterValidator(_rising)]
Times = Annotated[tuple[float, ...], AfterValidator(_falling)]
Prompts = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(strict=False, max_length=16),
    AfterValidator(_distinct),
]
Every = Annotated[bool | int, BeforeValidator(_every)]
"""Of many: none (false), all (true), or every n-th (2 or more)."""
Input = Annotated[str, Field(min_length=1), AfterValidator(absolute)]
Model = Annotated[str, Field(min_length=1), AfterValidator(_found)]
NullableText = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""Null is no text, ""."""
Folder = NullableText
"""A folder of output; null or "" until `Config` fills in its place under `run`."""


Compile = Literal["auto", "none", "blocks", "whole"]
"""What is compiled: each block that repeats, or the network at once; auto: blocks on a GPU."""
Attention = Literal["native", "_native_flash", "_native_cudnn", "flash", "_flash_3"]
"""PyTorch's choice, one of its kernels by name, FlashAttention 2 and 3 where they are installed."""


class Branch(BaseModel):
    """A part of the tree: frozen, without unknown keys, each value of its own type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
