"""Settings as YAML: read from a file or a word of the command line, and written."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from pipeline.utils.errors import UserError


def read(path: str) -> dict[str, Any]:
    """Read the settings of a file.

    Raises:
        UserError: If there is no such file, it is malformed or holds no mapping.
    """
    try:
        with open(path, "rb") as file:
            return read_text(file.read(), path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a YAML file with --config") from None


def read_text(text: bytes, path: str) -> dict[str, Any]:
    """Read the settings in the text of a file; `path` is for the messages of `read`."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: malformed YAML: {problem or error}") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"{path}: holds no settings; write them as `key: value`")
    return tree or {}


def parse(text: str) -> Any:
    """Read one value, such as 5, 1e-4 or [0.2, 0.8]; text that is no YAML stays text."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def dump(tree: dict[str, Any]) -> str:
    """Write settings in their own order, lists on one line; `read` takes them back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number and a key said twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Block YAML with lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True)
)
