"""A small text-to-image teacher from nothing: first its VAE, then UNet and text encoder together.

Source: latent diffusion, Rombach et al., 2022, arXiv 2112.10752.
"""

from collections.abc import Callable
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import AutoencoderConfig, NetworkConfig, TrainingConfig
from pipeline.data.captioned import CaptionedImages
from pipeline.data.sources.source import scaled
from pipeline.diffusion import seeds
from pipeline.models.from_scratch.parts import (
    new_autoencoder,
    new_pipeline,
    new_text_encoder,
    new_text_unet,
)
from pipeline.models.from_scratch.tasks import Autoencoding, TextDenoising, encoded
from pipeline.models.from_scratch.tokenizer import cut_tokenizer, tokens_of
from pipeline.training.from_scratch import Draw, Learner, Schedule

_ENCODED_AT_ONCE = 256


def train_text_teacher(
    found: CaptionedImages,
    network: NetworkConfig,
    training: TrainingConfig,
    seed: int,
    checkpoints: Path,
    save: Callable[[Any], None],
) -> None:
    """Train all parts, each from its newest checkpoint; the first worker saves the pipeline.

    Args:
        found: Images and captions.
        network: Of the UNet.
        training: Of all parts.
        seed: Of weights, order, noise and times.
        checkpoints: Folder of the states, the same for all workers.
        save: Gets a diffusers pipeline.
    """
    text, learner = training.text, Learner(checkpoints, training.text.checkpoint_every)
    size = found.pixels.shape[-1]
    coder = text.autoencoder
    average = learner.learn(
        Autoencoding(new_autoencoder(coder, size, seed)),
        _image_batches(found.pixels, coder, seed),
        Schedule(coder.steps, coder.lr, coder.ema),
        "autoencoder",
    )
    vae: Any = average.module.vae
    latents = _latents(vae, found.pixels, learner.device)
    scale = 1 / float(latents.std())
    vae.register_to_config(scaling_factor=scale)

    tokenizer = cut_tokenizer(chain(*found.captions))
    task = TextDenoising(
        new_text_unet(network, text, latents.shape[1:], seed),
        new_text_encoder(text, tokenizer, seed),
    )
    average = learner.learn(
        task,
        _latent_batches(
            latents * scale, _Captions(found.captions, tokenizer), training, task.noise_levels, seed
        ),
        Schedule(training.steps, training.lr, training.ema),
        "teacher",
    )
    if learner.is_first:
        learnt: Any = average.module
        save(new_pipeline(vae, learnt.text_encoder, tokenizer, learnt.unet))
    learner.wait()


class _Captions:
    """The tokens of all captions, (N, L), with the empty one; images may have several."""

    def __init__(self, captions: tuple[tuple[str, ...], ...], tokenizer: Any) -> None:
        self._tokens = tokens_of(["", *chain(*captions)], tokenizer)
        counts = [len(each) for each in captions]
        self._first = torch.tensor([1, *accumulate(counts, initial=1)][1:-1])
        self._counts = torch.tensor(counts)

    def draw(self, rows: Tensor, dropout: float, rng: torch.Generator) -> Tensor:
        """One caption of each of these images, (B, L), or the empty one."""
        chance = torch.rand(2, len(rows), generator=rng)
        number = self._first[rows] + (chance[0] * self._counts[rows]).long()
        return self._tokens[number * (chance[1] >= dropout)]


def _image_batches(pixels: Tensor, coder: AutoencoderConfig, seed: int) -> Draw:
    side = pixels.shape[-1] >> (len(coder.channels) - 1)

    def draw(step: int) -> tuple[Tensor, ...]:
        rng = seeds.generator("autoencoder", seed, step)
        rows = torch.randint(len(pixels), (coder.batch_size,), generator=rng)
        eps = torch.randn(coder.batch_size, coder.latent_channels, side, side, generator=rng)
        return scaled(pixels[rows]), eps

    return draw


def _latent_batches(
    latents: Tensor, captions: _Captions, training: TrainingConfig, levels: int, seed: int
) -> Draw:
    """Times are stratified: one of each of as many equal parts as there are images."""
    count = training.batch_size

    def draw(step: int) -> tuple[Tensor, ...]:
        rng = seeds.generator("teacher", seed, step)
        rows = torch.randint(len(latents), (count,), generator=rng)
        eps = torch.randn(count, *latents.shape[1:], generator=rng)
        part = (torch.arange(count) + torch.rand(count, generator=rng)) / count
        return (
            latents[rows],
            eps,
            (part * levels).long(),
            captions.draw(rows, training.text.dropout, rng),
        )

    return draw


def _latents(vae: Any, pixels: Tensor, device: torch.device) -> Tensor:
    parts = pixels.split(_ENCODED_AT_ONCE)
    return torch.cat([encoded(vae, scaled(part.to(device))).cpu() for part in parts])
