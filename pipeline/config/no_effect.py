"""Settings that were given and do nothing, since another turns off what they belong to."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pipeline.config.distill import DistillConfig
from pipeline.config.term_rules import batches_of_pairs

OFF: tuple[tuple[str, dict[str, Any]], ...] = (
    ("regression", {"regression_steps": 0, "regression.weight": 0}),
    ("regression.lr", {"regression_steps": 0}),
    ("regression.cache", {"regression.distance": "l2"}),
    ("regression.cache", {"regression.distance": "huber"}),
    ("matching", {"matching.weight": 0}),
    ("gan", {"gan.real": None}),
    ("gan.range", {"draws": "shared"}),
    ("augmentation", {"augmentation.weight": 0}),
    ("student.renoise", {"student.times": None}),
    ("student.lora", {"student.lora.rank": None}),
    ("critic.lora", {"critic.lora.rank": None}),
    ("scoring", {"scoring.count": 0}),
)
"""A setting of `distill`, or a group of them, and the values that turn it off together."""


def no_effect(distill: DistillConfig) -> list[str]:
    """A line for each setting that has another value than its own and changes nothing."""
    found = dict[str, str]()
    for name, switches in OFF:
        if all(_value(distill, each) == off for each, off in switches.items()):
            why = " and ".join(f"distill.{s} {json.dumps(v)}" for s, v in switches.items())
            for given in _given(distill, name):
                batch = given == "regression.batch_size" and batches_of_pairs(distill)
                if given not in switches and not batch:
                    found.setdefault(given, f"distill.{given} has no effect at {why}")
    return list(found.values())


def _value(branch: BaseModel, name: str) -> Any:
    for part in name.split("."):
        branch = getattr(branch, part)
    return branch


def _given(distill: DistillConfig, name: str) -> Iterator[str]:
    """Names of the settings there that have another value than if nobody had set them."""
    value, own = _value(distill, name), _value(DistillConfig(), name)
    if isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _given(distill, f"{name}.{field}")
    elif value != own:
        yield name
