"""Settings as YAML: read from a file or a word of the command line, and written."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from pipeline.utils.errors import UserError

LARGEST = 2**20
"""Bytes of a file, and characters that its values have with aliases written out, at most."""
DEEPEST = 50
"""Levels of lists and mappings in one another at most."""
_SHOWN = 300
"""Characters of a problem that are shown."""
_NUMBER = r"[-+]?(?!0\d)\d[\d.]*([eE][-+]?\d+)?"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_WHOLE, _POWER = r"(0|[1-9][\d_]*)", r"[eE][-+]?\d+"
_NUMBERS = {
    _INT: rf"[-+]?{_WHOLE}$",
    _FLOAT: rf"[-+]?({_WHOLE}{_POWER}|({_WHOLE}\.\d*|\.\d+)({_POWER})?|\.(inf|Inf|INF))$|\.nan$",
}
"""What is one, as in YAML 1.2: 010 and 20:00 are none, 1e-4 is."""
_LONGEST = 1000
"""Characters of a value that is no text at most."""


def shipped() -> Path:
    """The folder of recipes: of an installed package in it, of a checkout beside it."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def read(path: str) -> dict[str, Any]:
    """Read the settings of a file.

    Raises:
        UserError: If there is no such file, it is malformed or too large, or holds no mapping.
    """
    try:
        with open(path, "rb") as file:
            return read_text(file.read(LARGEST + 1), path)
    except OSError as error:
        near = get_close_matches(path, glob(os.path.join(os.path.dirname(path), "*.yaml")), 1)
        way_out = f"did you mean {near[0]}?" if near else "name a YAML file with --config"
        raise UserError(f"{path}: {error.strerror}; {way_out}") from None


def read_text(text: bytes, path: str) -> dict[str, Any]:
    """Read the settings in the text of a file; `path` is for the messages of `read`."""
    if len(text) > LARGEST:
        raise UserError(f"{path}: has more than {LARGEST:,} bytes; name a file of settings")
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(
            f"{path}{place}: malformed YAML: {f'{problem or error}'[:_SHOWN]}"
        ) from None
    if not isinstance(tree, dict | None):
        raise UserError(f"{path}: holds no settings; write them as `key: value`")
    return tree or {}


def parse(text: str) -> Any:
    """Read one value, such as 5, 1e-4, [0.2, 0.8] or 0.2,0.8; text that is no YAML stays text."""
    numbers = re.fullmatch(rf"{_NUMBER}(,{_NUMBER})+", text)
    try:
        return yaml.load(f"[{text}]" if numbers else text, _Loader)
    except yaml.YAMLError:
        return text


def dump(tree: dict[str, Any]) -> str:
    """Write settings in their own order, lists on one line; `read` takes them back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML of bounded size, in which a key said twice is an error."""

    def __init__(self, stream: bytes | str) -> None:
        super().__init__(stream)
        self._depth = self._size = 0
        self._sizes: dict[yaml.Node | None, int] = {}
        """Of what is whole: an alias of something else is in what it stands for."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, before = self.peek_event().start_mark, self._size
        alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and node not in self._sizes:
            raise yaml.MarkedYAMLError(problem="it is a part of itself", problem_mark=mark)
        own = 1 + len(node.value) if isinstance(node, yaml.ScalarNode) else 1
        self._size += self._sizes[node] if alias else own
        if self._size > LARGEST:
            raise yaml.MarkedYAMLError(problem="with its aliases too long", problem_mark=mark)
        self._sizes[node] = self._size - before
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Where YAML's own types cannot hold a value, say where it stands."""
        scalar = isinstance(node, yaml.ScalarNode) and node.tag != self.DEFAULT_SCALAR_TAG
        try:
            if scalar and len(node.value) > _LONGEST:
                raise ValueError
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"no value of the type {kind}", problem_mark=node.start_mark
            ) from error

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


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    """1e3 and 1.5e3 are the integers that they say."""
    value = loader.construct_yaml_float(node)
    whole = "e" in node.value.lower() and abs(value) < 2**53 and value.is_integer()
    return int(value) if whole else value


_Loader.add_constructor(_FLOAT, _number)


class _Dumper(yaml.SafeDumper):
    """Block YAML with lists on one line."""


for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [each for each in known if each[0] not in _NUMBERS]
        for first, known in _kind.yaml_implicit_resolvers.items()
    }
    for _tag, _form in _NUMBERS.items():
        _kind.add_implicit_resolver(_tag, re.compile(_form), list("-+.0123456789"))
_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True)
)
