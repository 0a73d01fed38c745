"""Classifier-free guidance, in the one convention of this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the settings read this file, and importing torch takes seconds
    from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How a teacher is guided.

    Args:
        scale: As in `guided`.
        until: Share of the way from noise to image after which there is none, in (0, 1].
        norm: Whether the guided prediction keeps the norm of the conditional one; None: as the
            teacher's pipeline does.
        second: Scale of the network for less noise, of a teacher of two; None: the same.
    """

    scale: float = 1.0
    until: float = 1.0
    norm: bool | None = None
    second: float | None = None

    def __str__(self) -> str:
        more = (f", {name} {value}" for name, value in self.beyond_scale.items())
        return f"guidance {self.scale:g}{''.join(more)}"

    @classmethod
    def of(cls, guidance: Guidance | float) -> Guidance:
        """A number is a scale, the same all the way."""
        return guidance if isinstance(guidance, Guidance) else cls(guidance)

    @property
    def beyond_scale(self) -> dict[str, Any]:
        """Settings that are not as they were when the scale was the only one."""
        until = self.until if self.until < 1 else None
        named = {"guidance_until": until, "guidance_norm": self.norm, "guidance_2": self.second}
        return {name: value for name, value in named.items() if value is not None}


def guided(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """Push a conditional prediction away from the unconditional one.

    uncond + scale (cond - uncond): 0 ignores the condition, 1 is the plain conditional
    prediction, more than 1 overshoots it. Some codebases call this scale - 1.

    Args:
        uncond: Prediction without the condition, (B, ...), of any kind (x0, eps, v, flow).
        cond: Prediction with it, same shape and kind.
        scale: Guidance scale; one for each sample where it is a tensor, (B, 1, ...).

    Returns:
        The guided prediction, same shape and kind.

    Raises:
        ValueError: If the shapes differ.

    Source: Ho and Salimans, 2022, arXiv 2207.12598, Eq. 6, with scale = w + 1.
    """
    if uncond.shape != cond.shape:
        raise ValueError(
            f"guidance needs two predictions of one shape, got {tuple(uncond.shape)} without and "
            f"{tuple(cond.shape)} with the condition"
        )
    return uncond + scale * (cond - uncond)
