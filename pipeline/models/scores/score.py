"""What a score is: images and their prompts in, a number for each image out."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Protocol

from torch import Tensor


class Score(Protocol):
    """Scores images by their prompts, on the GPU where there is one; higher is better.

    Attributes:
        checksum: SHA-256 of all its weights.
        library: What it runs in, with its version.
        resize: What happens to images first, in words.
    """

    checksum: str
    library: str
    resize: str

    def reads(self, prompt: str) -> bool:
        """Whether it says anything of images of this prompt."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """One number for each image.

        Args:
            images: (B, 1 or 3, H, W) in about [-1, 1].
            prompts: One for each.

        Returns:
            (B,) float32; NaN for a prompt that it does not read.
        """


def transformers_version() -> str:
    """What the scores of transformers' models run in, as `Score.library`."""
    return f"transformers {version('transformers')}"
