"""Curves of healthy runs of shipped recipes, which are drawn behind those of a run like them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

FOLDER = Path(__file__).parent / "reference"
"""One file a recipe, which `bench/reference.py` makes."""
ALIKE = (
    *("data.name", "data.size", "network.channels", "teacher.kind", "distill.batch_size"),
    *("distill.regression_steps", "distill.burn_in_steps"),
)
"""Settings in which a run must be like a healthy one; others, as rates, are what one compares."""


@dataclass(frozen=True)
class Reference:
    """The curves of a healthy run.

    Attributes:
        recipe: Its name.
        made: The command that trained it.
        alike: Settings of `ALIKE`, by their names.
        steps: Of its lines.
        figures: By their names in metrics.jsonl, one a line; None where a line has none.
    """

    recipe: str
    made: str
    alike: dict[str, Any]
    steps: list[int]
    figures: dict[str, list[float | None]]

    def points(self, name: str) -> list[tuple[float, float]]:
        """Every line that has a figure, as (step, value)."""
        values = zip(self.steps, self.figures.get(name, []), strict=False)
        return [(float(step), value) for step, value in values if value is not None]


_REFERENCE = TypeAdapter(Reference)


def reference(settings: Mapping[str, Any] | None) -> Reference | None:
    """That of the recipe which a run's settings are like; None if there is none."""
    mine = alike(settings or {})
    return next((each for each in _all() if each.alike == mine), None)


def alike(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `ALIKE` in those of a run; None for those that it has not."""
    found = {}
    for name in ALIKE:
        value: Any = settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found[name] = value
    return found


@cache
def _all() -> list[Reference]:
    files = sorted(FOLDER.glob("*.json"))
    return [_REFERENCE.validate_python(json.loads(file.read_text())) for file in files]
