"""Latents: what a VAE makes of images, in which most text-to-image models work."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from pipeline.models.precision import full_precision

TILED = 1536
"""Pixels a side, of images above which a VAE works in tiles: whole, they take too much memory."""


@dataclass(frozen=True)
class ScaleShift:
    """Brings a VAE's latents to those of the model, most often of unit variance, and back.

    Args:
        scale: Factor of the latents, once the shift is taken from them; one for all channels, or of
            each.
        shift: Their mean, as the scale.
    """

    scale: float | tuple[float, ...]
    shift: float | tuple[float, ...] = 0.0

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents as the model takes them, of those that the VAE gives, (B, C, h, w)."""
        return (latents - _over(self.shift, latents)) * _over(self.scale, latents)

    def restore(self, latents: Tensor) -> Tensor:
        """Latents as the VAE takes them, of those that the model makes, (B, C, h, w)."""
        return latents / _over(self.scale, latents) + _over(self.shift, latents)


def _over(value: float | tuple[float, ...], latents: Tensor) -> float | Tensor:
    """Of all channels, or of each, to be broadcast over latents."""
    if not isinstance(value, tuple):
        return value
    return latents.new_tensor(value).view(-1, *(1,) * (latents.ndim - 2))


class VAE:
    """A frozen VAE, shared by all copies of a network.

    Images of more than `TILED` pixels a side go through it in overlapping tiles, which changes
    them a little. An `AutoencoderTiny` is small enough for whole ones, and its tiles know latents
    of 4 channels alone.

    Args:
        vae: The network, an `AutoencoderKL`, `AutoencoderDC` or `AutoencoderTiny`.
        normaliser: Of its latents; None: the scaling and shift factor of its config.
    """

    def __init__(self, vae: Any, normaliser: ScaleShift | None = None) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.vae.enable_slicing()
        config = self.vae.config
        self.normaliser = normaliser or ScaleShift(
            config.scaling_factor, config.get("shift_factor") or 0.0
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "VAE":
        return self

    def at_meta(self) -> "VAE":
        """A copy on the meta device; nothing is computed or moved."""
        copied = copy.copy(self)
        copied.vae = copy.deepcopy(self.vae).to("meta")
        return copied

    @property
    def channels(self) -> int:
        """Of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Pixels to a latent, in height and in width."""
        config = self.vae.config
        widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
        return int(2 ** (len(widths) - 1))

    @property
    def frames(self) -> int:
        """Frames of a video to a latent; the first is a latent alone."""
        return 1

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what it makes of latents of a shape, (C, h, w)."""
        return 3, *(side * self.factor for side in shape[1:])

    def _tile(self, sides: Iterable[int]) -> None:
        if max(sides) > TILED and not isinstance(self.vae, diffusers.AutoencoderTiny):
            self.vae.enable_tiling()
        else:
            self.vae.disable_tiling()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of unit variance, (B, C, h, w), of images, (B, 3, H, W) in [-1, 1].

        They are the mode of the VAE's distribution: nothing is drawn. Each image goes through the
        VAE alone, so that its latents do not depend on the others.
        """
        self._tile(images.shape[-2:])
        with full_precision(images.device):
            found = self.vae.to(images.device).encode(images)
        latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found[0]
        return self.normaliser.normalise(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Images, (B, 3, H, W) in about [-1, 1], of latents, (B, C, h, w) of unit variance.

        Gradients flow to the latents, where these have them.
        """
        scaled = self.normaliser.restore(latents)
        self._tile(size * self.factor for size in latents.shape[-2:])
        with full_precision(latents.device):
            self.vae.to(latents.device)
            return self.made_of(scaled)

    def made_of(self, latents: Tensor) -> Tensor:
        """Images, of latents as the network itself takes them."""
        images: Tensor = self.vae.decode(latents).sample
        return images


class VideoVAE(VAE):
    """A VAE of videos, (B, 3, F, H, W); its latents are (B, C, f, h, w).

    Args:
        vae: The network.
        normaliser: Of its latents; None: the mean and deviation of each channel in its config.
    """

    def __init__(self, vae: Any, normaliser: ScaleShift | None = None) -> None:
        if normaliser is None:
            spread = tuple(1 / each for each in vae.config.latents_std)
            normaliser = ScaleShift(spread, tuple(vae.config.latents_mean))
        super().__init__(vae, normaliser)

    @property
    def channels(self) -> int:
        config = self.vae.config
        return int(config.get("z_dim") or config.latent_channels)

    @property
    def factor(self) -> int:
        return int(self.vae.spatial_compression_ratio)

    @property
    def frames(self) -> int:
        told = getattr(self.vae, "temporal_compression_ratio", None)
        told = told or self.vae.config.get("scale_factor_temporal")
        return int(told or 2 ** sum(self.vae.config.temperal_downsample))

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the video that it makes of latents of a shape, (C, f, h, w)."""
        _, frames, *sides = shape
        return 3, (frames - 1) * self.frames + 1, *(side * self.factor for side in sides)

    def encode(self, images: Tensor) -> Tensor:
        self._tile(images.shape[-2:])
        with torch.no_grad(), full_precision(images.device):
            found = self.vae.to(images.device).encode(images).latent_dist.mode()
        return self.normaliser.normalise(found)


class FrameVAE(VideoVAE):
    """A VAE of videos, for the one frame of an image: an `AutoencoderKLQwenImage` or `...Wan`."""

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return VAE.pixels(self, shape)

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images[:, :, None])[:, :, 0]

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents[:, :, None])[:, :, 0]
