"""The laws that have a figure: a test holds it to its bar, docs/conformance.md shows it."""

from collections.abc import Callable
from typing import NamedTuple


class Law(NamedTuple):
    """A column of the table.

    Attributes:
        title: What is measured.
        bar: What the figure may not exceed; with `at_least`, what it must reach.
        shown: How the figure is written.
    """

    title: str
    bar: float
    shown: str = ".0e"
    at_least: bool = False

    def kept(self, figure: float) -> bool:
        """Whether the law holds; it does not for NaN."""
        return figure >= self.bar if self.at_least else figure <= self.bar

    @property
    def limit(self) -> str:
        """The bar in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bar:{self.shown}}"


LAWS = {
    "x0": Law("x0 at every step", 1e-5),
    "end": Law("last latents, own size", 1e-4),
    "sizes": Law("last latents, two other sizes", 1e-4),
    "trained": Law("tensors two DMD steps with GAN change", 0.9, ".0%", at_least=True),
    "opened": Law("student's images in a fresh process", 1e-5),
    "keys": Law("unmatched LoRA keys", 0, ".0f"),
    "adapted": Law("what LoRA changes", 0.01, ".1%", at_least=True),
    "lora": Law("latents with LoRA", 1e-5),
    "memory": Law("memory forecast off by", 0.05, ".1%"),
}


class Figures:
    """Of one test.

    Args:
        record: Gets the name of a law, and its figure or why there is none.
    """

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def __call__(self, law: str, figure: float) -> None:
        """Hold a figure to its bar."""
        self._record(law, float(figure))
        told = f"{LAWS[law].title}: {float(figure):.3g}, {LAWS[law].limit}"
        assert LAWS[law].kept(figure), told

    def none(self, law: str, reason: str) -> None:
        """The law has no meaning here."""
        self._record(law, reason)
