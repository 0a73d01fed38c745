"""What an image is made of: named tensors, one row a sample; and what makes them of labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.diffusion.devices import moved


@dataclass(frozen=True)
class Condition:
    """Named tensors, each (B, ...); none at all for a network that takes no condition.

    The usual names: `labels` (B,) int64, `tokens` (B, L, D), `mask` (B, L) of zeros and ones,
    `pooled` (B, D).
    Where there is a mask, rows may have come with other lengths L: they are padded with zeros.
    What the images beside prompts come to begins with `image`, as `image_latents`; `tokens_null`
    and `mask_null` are of the negative prompt, where its encoder sees the images too.

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
        return self._map(lambda value: moved(value, device))

    def _map(self, action: Callable[[Tensor], Tensor]) -> "Condition":
        return Condition({name: action(value) for name, value in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence["Condition"]) -> "Condition":
        """The samples of all parts, one part after another; all have the same names."""
        names = parts[0].tensors
        for mask in (name for name in names if name.startswith("mask")):
            longest = max(part[mask].shape[1] for part in parts)
            parts = [part._padded(mask, longest) for part in parts]
        return Condition({name: torch.cat([part[name] for part in parts]) for name in names})

    def _padded(self, mask: str, length: int) -> "Condition":
        """The same with rows of so many tokens, those that are added not counted by their mask."""
        tokens, missing = mask.replace("mask", "tokens"), length - self[mask].shape[1]
        padded = {
            tokens: pad(self[tokens], (0, 0, 0, missing)),
            mask: pad(self[mask], (0, missing)),
        }
        return Condition({**self.tensors, **padded}) if missing else self

    def without_prompts(self, null: "Condition") -> "Condition":
        """The same samples without their prompts, for guidance; the images beside them stay.

        Args:
            null: No condition, of as many samples, for tensors that these have no `_null` of.
        """
        images = {name: value for name, value in self.tensors.items() if name.startswith("image")}
        end = "_null"
        own = {name.removesuffix(end): self[name] for name in self.tensors if name.endswith(end)}
        rest = {name: value for name, value in null.tensors.items() if not name.endswith(end)}
        return Condition({**rest, **own, **images})


class Inputs(NamedTuple):
    """What a denoiser is called with: x_t (B, C, H, W), t (B,), and the condition of every row."""

    x_t: Tensor
    t: Tensor
    condition: Condition

    def rows(self, rows: slice | Tensor) -> "Inputs":
        """Some of the samples."""
        return Inputs(self.x_t[rows], self.t[rows], self.condition.rows(rows))

    @staticmethod
    def cat(parts: Sequence["Inputs"]) -> "Inputs":
        """All rows, one part after another."""
        return Inputs(
            torch.cat([part.x_t for part in parts]),
            torch.cat([part.t for part in parts]),
            Condition.cat([part.condition for part in parts]),
        )


class Conditioner:
    """Makes conditions; all copies of a network share one.

    Attributes:
        classes: Number of labels; None where there are none.
        prompts: What the labels stand for, where that is text.
    """

    classes: int | None = None
    prompts: Sequence[str] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Conditioner":
        return self

    def __call__(
        self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"
    ) -> Condition:
        """Of `count` samples on a device.

        Args:
            labels: (count,) int64 in [0, classes), or None for no condition.
            count: Number of samples.
            device: Where the condition shall be.

        Raises:
            UserError: If labels is None and the network knows classes alone.
        """
        raise NotImplementedError

    def null(self, count: int, device: torch.device | str = "cpu") -> Condition:
        """No condition, or the negative prompt, for guidance.

        Raises:
            UserError: If the network knows none.
        """
        raise NotImplementedError
