"""What the parts of a new model learn: each task gives the loss of a batch."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from pipeline.models.from_scratch.parts import new_scheduler

_EDGES, _KL = 0.5, 3e-4


class Autoencoding(nn.Module):
    """A VAE learns to give images back.

    The loss is L1 + L2, half the L1 of the differences between neighbours, which keeps edges, and
    a little of the KL divergence of the latents from a normal distribution (Rombach et al., 2022,
    arXiv 2112.10752, Section 3.1, without its adversary).

    Args:
        vae: The network.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, eps: Tensor) -> Tensor:
        """The loss of images, (B, 3, H, W) in [-1, 1], with this noise of latents, (B, c, h, w)."""
        latents = self.vae.encode(images).latent_dist
        error = self.vae.decode(latents.mean + latents.std * eps).sample - images
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (latents.mean**2 + latents.var - 1 - latents.logvar).mean()
        return error.abs().mean() + error.square().mean() + _EDGES * edges + _KL * kl


class TextDenoising(nn.Module):
    """A UNet and its text encoder learn together to take noise from latents.

    Source: the v-prediction of Salimans and Ho, 2022, arXiv 2202.00512, Appendix D; captions left
    out for guidance: Ho and Salimans, 2022, arXiv 2207.12598, Algorithm 1.

    Args:
        unet: Predicts v from noisy latents and the text.
        text_encoder: Reads the tokens.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self._scheduler = new_scheduler()

    @property
    def noise_levels(self) -> int:
        """How many times there are."""
        return int(self._scheduler.config.num_train_timesteps)

    def forward(self, latents: Tensor, eps: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """The loss of scaled latents and noise, (B, C, H, W), at times t, (B,) int64.

        Args:
            latents, eps, t: As above.
            tokens: Of the captions, (B, L) int64.
        """
        text = self.text_encoder(tokens).last_hidden_state
        x_t = self._scheduler.add_noise(latents, eps, t)
        v = self._scheduler.get_velocity(latents, eps, t)
        return functional.mse_loss(self.unet(x_t, t, text).sample.float(), v)


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latents of images, (B, 3, H, W) in [-1, 1]: the means of their distributions, unscaled."""
    latents: Tensor = vae.encode(images).latent_dist.mean
    return latents
