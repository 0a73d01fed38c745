"""Latents: what a VAE makes of images, in which most text-to-image models work."""

from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from pipeline.models.precision import full_precision


class Latents:
    """A frozen VAE, shared by all copies of a network.

    Args:
        vae: Its config has scaling and shift factor.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.vae.enable_slicing()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Latents":
        return self

    @property
    def factor(self) -> int:
        """Pixels to a latent, in height and in width."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def decode(self, latents: Tensor) -> Tensor:
        """Images, (B, 3, H, W) in about [-1, 1], of latents, (B, C, h, w) of unit variance.

        Gradients flow to the latents, where these have them.
        """
        config = self.vae.config
        scaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        with full_precision(latents.device):
            images: Tensor = self.vae.to(latents.device).decode(scaled).sample
        return images
