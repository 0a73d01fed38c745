"""LPIPS as the distance of the regression loss."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.config.terms import RegressionConfig
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.terms.regression import DISTANCES, Distance
from pipeline.methods.terms.term import Held
from pipeline.models.denoiser import Denoiser
from pipeline.models.perceptual.decoder import decoder_fingerprint, load_decoder
from pipeline.models.perceptual.lpips import LPIPS
from pipeline.models.perceptual.lpips_weights import read_weights
from pipeline.models.vae import VAE
from pipeline.utils.errors import UserError


@dataclass
class Perceptual:
    """LPIPS of images, and of latents decoded.

    The pairs' decoded images stay in host memory, in float16, until that is full; then no more are
    kept, for a set is read round and round, where the newest are the last to come again. Fresh
    ones are rounded as well: what is kept changes no result.

    Args:
        lpips: On the device of the student.
        latents: Decodes student and pairs; None where they are images.
        room: Bytes of host memory for decoded images.
        recompute: Whether the backward pass decodes and compares again, image by image, instead
            of keeping all that it needs of a microbatch.
        shares_vae: Whether the VAE in `latents` is the teacher's own.
    """

    lpips: LPIPS
    latents: VAE | None
    room: int
    recompute: bool
    shares_vae: bool = False
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, x0: Tensor, pairs: PairBatch) -> Tensor:
        """Mean over the microbatch, (); gradients flow to x0."""
        targets = self.targets(pairs)
        if not self.recompute:
            return self.distances(x0, targets).mean()
        rows = zip(x0.split(1), targets.split(1), strict=True)
        parts = [
            checkpoint(self.distances, *row, use_reentrant=False, preserve_rng_state=False)
            for row in rows
        ]
        return torch.cat(parts).mean()

    def distances(self, x0: Tensor, targets: Tensor) -> Tensor:
        """(B,), of x0 (B, C, H, W) to images (B, 1 or 3, H, W); the mean over a video's frames."""
        x0 = x0.float()
        images = x0 if self.latents is None else self.latents.decode(x0)
        if images.ndim == 4:
            return self.lpips(images, targets)
        frames, wanted = (each.transpose(1, 2).flatten(0, 1) for each in (images, targets))
        return self.lpips(frames, wanted).unflatten(0, (len(images), -1)).mean(1)

    @torch.no_grad()
    def targets(self, pairs: PairBatch) -> Tensor:
        """The pairs' images, (B, 1 or 3, H, W), float32."""
        if self.latents is None:
            return pairs.images.float()
        images = []
        for number, latent in zip(pairs.ids.tolist(), pairs.images.float().split(1), strict=True):
            image = self._kept.get(number)
            if image is None:
                image = self.latents.decode(latent).half()
                if (size := image.numel() * image.element_size()) <= self.room:
                    self._kept[number] = image.cpu()
                    self.room -= size
            images.append(image.to(latent.device).float())
        return torch.cat(images)

    def held(self, shape: tuple[int, ...], rows: int) -> Held:
        """What it holds beside student and teacher; see `Held`. Nothing is computed or moved."""
        latents = None if self.latents is None else self.latents.at_meta()
        lpips = copy.deepcopy(self.lpips).to("meta")
        decoders = [] if latents is None else [latents.vae]
        at_meta = replace(self, lpips=lpips, latents=latents)
        rows = 1 if self.recompute else rows
        x0 = torch.empty((1, *shape), device="meta")
        images = x0 if latents is None else latents.decode(x0)
        x0.requires_grad_()
        own, shared = ([], decoders) if self.shares_vae else (decoders, [])
        return Held([lpips, *own], lambda: at_meta.distances(x0, images), rows, shared)


def new_distance(
    regression: RegressionConfig, teacher: Denoiser, device: torch.device, recompute: bool = False
) -> Distance:
    """What `distill.regression.distance` names.

    Args:
        regression: The settings.
        teacher: Whose images or latents are compared.
        device: Of the student.
        recompute: As `Perceptual`.

    Raises:
        UserError: If weights or decoder cannot be read, or do not fit the teacher.
    """
    if regression.distance != "lpips":
        return DISTANCES[regression.distance]
    latents = _decoder(regression, teacher)
    lpips = LPIPS(read_weights(regression.lpips)).to(device)
    room, shared = int(regression.cache * 2**30), latents is teacher.latents
    return Perceptual(lpips, latents, room, recompute, shared)


def distance_fingerprint(regression: RegressionConfig) -> dict[str, Any]:
    """What defines the distance: its name, and the SHA-256 of what it reads.

    Nothing for l2, so that runs from before there was a choice go on.

    Raises:
        UserError: If weights or decoder cannot be read.
    """
    if regression.distance == "l2":
        return {}
    found: dict[str, Any] = {"distance": regression.distance}
    if regression.distance == "lpips":
        found["lpips"] = read_weights(regression.lpips).fingerprint()
        if regression.decoder:
            found["decoder"] = decoder_fingerprint(regression.decoder)
    return found


def _decoder(regression: RegressionConfig, teacher: Denoiser) -> VAE | None:
    """What decodes latents; None if the teacher makes images."""
    latents = teacher.latents
    if latents is None and regression.decoder:
        raise UserError(
            f"distill.regression.decoder: {regression.decoder} decodes latents, and the teacher "
            "makes images: leave it null"
        )
    if latents is None and teacher.shape[0] not in (1, 3):
        raise UserError(
            f"distill.regression.distance: lpips compares images of 1 or 3 channels, and the "
            f"teacher's have {teacher.shape[0]}: use l2 or huber"
        )
    if latents is not None and regression.decoder:
        latents = load_decoder(regression.decoder)
        if (channels := latents.channels) != teacher.shape[0]:
            raise UserError(
                f"distill.regression.decoder: {regression.decoder} decodes latents of {channels} "
                f"channels, and the teacher's have {teacher.shape[0]}: name one of its family"
            )
    return latents
