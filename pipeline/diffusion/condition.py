"""What an image is made of: named tensors, one row a sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Named tensors, each (B, ...); none at all for a network that takes no condition.

    The usual names: `labels` (B,) int64, `tokens` (B, L, D), `mask` (B, L), `pooled` (B, D).

    Args:
        tensors: By name.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name; KeyError if there is none."""
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        """The tensor of a name, or None."""
        return self.tensors.get(name)

    def rows(self, rows: slice | Tensor) -> "Condition":
        """Some of the samples."""
        return self._map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """The same on a device."""
        return self._map(lambda value: value.to(device))

    def _map(self, action: Callable[[Tensor], Tensor]) -> "Condition":
        return Condition({name: action(value) for name, value in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence["Condition"]) -> "Condition":
        """The samples of all parts, one part after another; all have the same names."""
        names = parts[0].tensors
        return Condition({name: torch.cat([part[name] for part in parts]) for name in names})
