"""Draws in float64."""

from dataclasses import fields, is_dataclass, replace

import torch


def double(draws):
    """The same dataclass, every floating tensor in it in float64."""
    if torch.is_tensor(draws):
        return draws.double() if draws.is_floating_point() else draws
    if not is_dataclass(draws):
        return draws
    return replace(
        draws, **{field.name: double(getattr(draws, field.name)) for field in fields(draws)}
    )
