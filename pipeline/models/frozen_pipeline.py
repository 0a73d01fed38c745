"""A pipeline of diffusers as copies of a network share it."""

from typing import Any

import diffusers
from torch import nn

from pipeline.models.vae import VAE


class FrozenPipeline:
    """A pipeline of diffusers without its backbone: all that copies of a network share.

    Args:
        pipe: The pipeline.
        vae: That of the pipeline.
        flags: What it was made with beside its components.
        required: Names of the components that its class cannot do without.
    """

    def __init__(
        self,
        pipe: "diffusers.DiffusionPipeline",
        vae: VAE,
        flags: dict[str, Any],
        required: set[str],
    ) -> None:
        self.pipe, self.vae, self.flags, self.required = pipe, vae, flags, required
        for encoder in self.text_encoders:
            encoder.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenPipeline":
        return self

    @property
    def text_encoders(self) -> list[nn.Module]:
        """Those that are there, and what sees images beside prompts."""
        parts, kinds = self.pipe.components.items(), ("text_encoder", "image_encoder")
        return [part for name, part in parts if name.startswith(kinds) and part]

    @property
    def scheduler(self) -> dict[str, Any]:
        """Settings of its scheduler, with what the pipeline corrected, and the class's name."""
        return {**self.pipe.scheduler.config, "_class_name": type(self.pipe.scheduler).__name__}
