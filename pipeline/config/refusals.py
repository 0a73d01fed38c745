"""What is wrong with a setting, in one line that names it and the way out."""

import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from pydantic_core import ErrorDetails

from pipeline.config.elsewhere import ELSEWHERE

_LONGEST = 100
"""Characters of an unknown setting's name that are shown."""


def unknown(key: str, names: Sequence[str]) -> str:
    """What to say of a setting that there is not.

    Args:
        key: Its name as given.
        names: Of all settings, dotted.
    """
    key = key[:_LONGEST]
    if any(name.startswith(f"{key}.") for name in names):
        inside = ", ".join(name for name in names if name.startswith(f"{key}."))
        return f"{key}: a group of settings, not a setting; it has {inside}"
    return f"{key}: unknown setting; {_hint(key, names)}"


def _hint(key: str, names: Sequence[str]) -> str:
    groups = sorted({name.rpartition(".")[0] for name in names} - {""})
    group, _, leaf = key.replace("-", "_").rpartition(".")

    def likeness(name: str) -> float:
        return _likeness(name.rpartition(".")[2], leaf) + _likeness(name, key)

    if group in ("", *groups) and (there := ELSEWHERE.get(leaf)):
        return there
    if same_leaf := [name for name in (*names, *groups) if name.endswith(f".{key}")]:
        return f"did you mean {' or '.join(same_leaf)}?"
    beside = [name for name in names if group and name.rpartition(".")[0] == group]
    if beside and _likeness((near := max(beside, key=likeness)).rpartition(".")[2], leaf) > 0.5:
        return f"did you mean {near}?"
    best = max((*names, *groups), key=likeness)
    return f"did you mean {best}?" if likeness(best) > 1.2 else "--help-all lists all settings"


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def line(errors: Sequence[ErrorDetails], names: Sequence[str]) -> str:
    """Say the first of pydantic's errors: key, value, what is right.

    Args:
        errors: Of `Config`.
        names: Of all settings, dotted.
    """
    own = [each for each in errors if _key(each).startswith(_key(errors[0]))]
    error = max(own, key=lambda each: len(_key(each)))  # of a union, the kind that fits best
    key, kind = _key(error), error["type"]
    value = json.dumps(error["input"], default=str, skipkeys=True)
    value = value if len(value) <= 60 else f"{value[:57]}..."
    reasons = dict.fromkeys(_reason(each) for each in own if _key(each) == key)
    reason = " or ".join(reasons).replace("or must be", "or")
    if kind == "extra_forbidden":
        name, colon, given = f"{error['loc'][-1]}".partition(":")
        if colon and name.isidentifier():
            setting = f"{key}.{name}".lstrip(".")
            return f"{setting}: YAML wants a space after the colon; write {name}: {given}"
        setting = f"{_named(error['loc'][:-1])}.{error['loc'][-1]}".lstrip(".")
        if (known := setting.replace("-", "_")) in names and not name.isidentifier():
            nested = known.replace(".", ": {")
            return f"{setting}: in YAML write {nested}: {value}{'}' * known.count('.')}"
        return unknown(setting, names)
    if not key:
        return reason
    if kind == "missing":
        return f"{key}: missing; give it a value"
    if kind.startswith(("greater_than", "less_than")):
        return f"{key}: {value} is out of range: {reason}"
    if value.lower() == '"none"':
        reason += ", or null for none"
    return f"{key}: {value} is not accepted: {reason}"


def _key(error: ErrorDetails) -> str:
    """Of the setting, without the names of types."""
    return _named(error["loc"])


def _named(loc: Sequence[int | str]) -> str:
    loc = [p for p in loc if isinstance(p, int) or p.isidentifier()]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")


_PLAIN = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "have at least 1 character": "not be empty",
    " after validation": "",
}
"""Pydantic's words -> those of the help."""


def _reason(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    if kind == "model_type":
        return "must be a group of settings, written {name: value}"
    if kind == "tuple_type":
        item = 1 if isinstance(value, dict | list | None) else value
        item = json.dumps(item) if not f"{item}".isidentifier() else item
        return f"must be a list such as [{item}, ...]"
    reason = error["msg"].removeprefix("Value error, ")
    reason = re.sub(r"^(Input|String|Tuple|Dictionary) should", "must", reason)
    for theirs, ours in _PLAIN.items():
        reason = reason.replace(theirs, ours)
    return reason
