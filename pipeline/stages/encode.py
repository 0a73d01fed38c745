"""Encode real images: listed files -> cropped pixels -> the VAE's latents -> a stored shard."""

import socket
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipeline.config import Config, S3Config, TeacherConfig
from pipeline.data import real, shards
from pipeline.data.crop import CHANNELS, UnreadableError
from pipeline.data.plans import RealPlan, bucket_fields
from pipeline.data.real import Damaged, RealBatch
from pipeline.data.sources.listing import Listing, open_listing
from pipeline.data.sources.sample import Sample, Wanted
from pipeline.data.sources.source import Reader, scaled
from pipeline.data.storage import Store
from pipeline.diffusion.buckets import Shape
from pipeline.models.loading import image_format, load_vae, vae_fingerprint
from pipeline.models.vae import VAE
from pipeline.utils.errors import UserError

_HOPELESS = 3
"""Shards without one readable image after which a maker gives up."""


def real_plan(config: Config, store: Store) -> RealPlan:
    """All that defines the content of the configured set; its source is listed at the first call.

    Raises:
        UserError: If the teacher cannot be loaded, the size does not suit it, or the source is
            missing, unreadable, without what the teacher needs, not the one listed before, or has
            too few images for shards of all buckets.
    """
    encode = config.encode
    if encode.source is None:
        raise UserError(
            "encode.source: missing; give a folder of images, of Parquet files or of WebDataset's "
            ".tar files"
        )
    images = image_format(config.teacher)
    factor = 1 if images.vae is None else images.vae.factor
    buckets = images.buckets
    if len(buckets.shapes[0]) > 3:
        raise UserError(
            "encode.source: the teacher makes videos, and these are images; its GAN judges pairs "
            "(distill.gan.real: pairs)"
        )
    channels, height, width = buckets.shapes[0]
    if images.vae is None and channels not in CHANNELS:
        raise UserError(
            f"teacher.output: images of {channels} channels, and no VAE; real images have 1 or 3"
        )
    if encode.size is not None:
        if len(buckets.shapes) > 1:
            raise UserError(
                f"encode.size: {encode.size}, but teacher.buckets has {len(buckets.shapes)} sizes; "
                "give null, and the images have these"
            )
        if encode.size % factor:
            raise UserError(
                f"encode.size: {encode.size} is not a multiple of {factor}, as the VAE needs; or "
                "give null"
            )
        height = width = encode.size // factor
    captions, classes = images.captions, images.classes
    wanted: Wanted = "captions" if captions else "nothing" if classes is None else "labels"
    skip = encode.unannotated == "skip"
    listing = open_listing(store, encode.source, config.s3, wanted, classes, skip)
    shapes, shares = bucket_fields(buckets)
    plan = RealPlan(
        codec=vae_fingerprint(config.teacher),
        source=listing.source,
        count=listing.count,
        size=(height * factor, width * factor),
        shard_size=encode.shard_size,
        shape=(channels, height, width),
        classes=classes,
        captions=captions,
        shapes=shapes,
        shares=shares,
    )
    plan.spans(plan.count)  # it holds all buckets
    return plan


class RealMaker:
    """Makes whole shards; what is in them follows from the plan and the source alone.

    Args:
        teacher: Whose VAE is loaded once, at the first shard.
        source: Where the images are, with what reaches them.
        plan: What defines the set.
        store: Where the set is.
    """

    def __init__(
        self, teacher: TeacherConfig, source: tuple[str, S3Config], plan: RealPlan, store: Store
    ) -> None:
        self.plan = plan
        self._teacher, self._source, self._store = teacher, source, store
        self._spans = plan.spans(plan.count)
        self._sound, self._damaged = 0, list[Damaged]()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def too_large(self) -> str:
        """What the user can do where memory does not hold the work."""
        height, width = self.plan.pixels(self.plan.buckets.largest)
        return (
            f"encode.size: memory does not hold the VAE and an image of {height}x{width}; share a "
            "GPU among fewer encode.actors, or use a larger one"
        )

    @cached_property
    def latents(self) -> VAE | None:
        """The VAE, or None for pixels.

        Raises:
            UserError: If this machine does not see the set, or has another VAE.
        """
        shards.check_shared(self._store, self.plan)
        teacher = self._teacher
        if vae_fingerprint(teacher) != self.plan.codec:
            raise UserError(
                f"teacher.output: node {socket.gethostname()} has another VAE than the job "
                f"({teacher.output}); every node needs the same files there, or give s3://"
            )
        return load_vae(teacher)

    @cached_property
    def _listing(self) -> Listing:
        return Listing(self._store)

    @cached_property
    def _reader(self) -> Reader:
        return self._listing.reader(*self._source)

    def make(self, index: int) -> str:
        """Make one shard and store it, unless it is stored already; returns its name.

        Images that cannot be read have no row, and are noted beside the shard.

        Raises:
            UserError: If the VAE cannot be loaded, source or store refuse, or no image of the
                first shards can be read.
            FloatingPointError: If the VAE makes values that are not finite.
        """
        ids, vae, reader = self._spans[index], self.latents, self._reader
        samples = dict(zip(ids, self._listing.samples(ids), strict=True))
        rows: dict[int, Tensor] = {}
        damaged: list[Damaged] = []
        channels = self.plan.shape[0] if self.plan.codec == "pixels" else 3
        shape = self.plan.shape_of(ids.start)
        found = reader.pixels(samples.values(), channels, *self.plan.pixels(shape))
        for (id, sample), pixels in zip(samples.items(), found, strict=True):
            if isinstance(pixels, UnreadableError):
                damaged.append(Damaged(id, sample.name, str(pixels)))
                continue
            image = scaled(pixels[None].to(self._device))
            rows[id] = image if vae is None else vae.encode(image)
            if not rows[id].half().isfinite().all():
                raise FloatingPointError(f"the VAE fails at image {id}, {sample.name}: not finite")
        batch = self._batch(samples, rows, shape)
        name = real.write(self._store, self.plan, ids, batch, damaged)
        self._count(len(rows), damaged)
        return name

    def _count(self, sound: int, damaged: Sequence[Damaged]) -> None:
        """Give up if nothing at all can be read from the start."""
        self._sound += sound
        self._damaged += damaged
        if self._sound or len(self._damaged) < _HOPELESS * self.plan.shard_size:
            return
        first = self._damaged[0]
        raise UserError(
            f"encode.source: not one of {len(self._damaged)} images can be read, the first of them "
            f"{first.image} (id {first.id}): {first.reason}; mend the source, or run again if the "
            "others are sound: it goes on with the next ones"
        )

    def _batch(
        self, samples: Mapping[int, Sample], rows: Mapping[int, Tensor], shape: Shape
    ) -> RealBatch:
        annotations: list[Any] = [samples[id].annotation for id in rows]
        plan = self.plan
        return RealBatch(
            torch.tensor(list(rows), dtype=torch.int64),
            None if plan.classes is None else torch.tensor(annotations, dtype=torch.int64),
            tuple(annotations) if plan.captions else None,
            torch.cat([torch.zeros(0, *shape), *(row.cpu() for row in rows.values())]),
        )
