"""Real images for the discriminator: which ones at which step."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.config import Config, DataConfig
from pipeline.data.images import load_images
from pipeline.data.plans import RealPlan
from pipeline.data.reader import PairReader, RealReader
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Storage
from pipeline.diffusion import seeds
from pipeline.methods.microbatch import RealImages
from pipeline.models.denoiser import Denoiser
from pipeline.runs.pairs import RunPairs
from pipeline.utils.errors import UserError


def new_source(config: Config, teacher: Denoiser) -> Callable[[int], RealImages] | None:
    """The index-th batch of a microbatch's size, in an endless seeded order; None without a GAN.

    Raises:
        UserError: If the images cannot be read, or are not of the teacher's kind.
    """
    size = config.distill.batch_size // config.distill.lanes
    seed = seeds.generator("real", config.seed).initial_seed()  # not the order of the regression
    match config.distill.gan.real:
        case None:
            return None
        case "data":
            return _data(config.data, teacher, size, config.seed)
        case "encoded":
            encoded = Storage(config.encode.output, config.s3, "encode.output")
            images = read_manifest(encoded, RealPlan).of(teacher.shape)
            return _encoded(RealReader(encoded, seed, size, manifest=images), teacher)
        case "pairs":
            pairs = RunPairs(config.pairs.output, config.distill.output, config.s3)
            return _pairs(pairs.reader(seed, size, teacher.shape))


def _data(data: DataConfig, teacher: Denoiser, size: int, seed: int) -> Callable[[int], RealImages]:
    real = load_images(data.name, data.size, data.folder)
    if (shape := tuple(real.images.shape[1:])) != teacher.shape:
        raise UserError(
            f"distill.gan.real: data are images of {shape}, and the teacher makes "
            f"{teacher.shape}: use those it learnt from"
        )
    if teacher.classes not in (None, real.classes):
        raise UserError(
            f"distill.gan.real: data {data.name} has {real.classes} classes, and the "
            f"teacher {teacher.classes}: use those it learnt from"
        )

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        rng = seeds.generator("real", seed, epoch)
        return torch.randperm(len(real.images), generator=rng)

    def source(index: int) -> RealImages:
        places = (divmod(index * size + row, len(real.images)) for row in range(size))
        rows = torch.stack([order(epoch)[place] for epoch, place in places])
        return real.images[rows], None if teacher.classes is None else real.labels[rows]

    return source


def _pairs(reader: PairReader) -> Callable[[int], RealImages]:
    def source(index: int) -> RealImages:
        batch = reader.batch(index)
        return batch.images, batch.labels

    return source


def _encoded(reader: RealReader, teacher: Denoiser) -> Callable[[int], RealImages]:
    numbers = {prompt: number for number, prompt in enumerate(teacher.prompts or ())}

    def source(index: int) -> RealImages:
        batch = reader.batch(index)
        if teacher.classes is None:
            return batch.images, None
        if teacher.prompts is None:
            if batch.labels is None or int(batch.labels.max()) >= teacher.classes:
                raise UserError(
                    f"encode.output: {reader.uri} lacks labels below the teacher's "
                    f"{teacher.classes}: encode images that have them"
                )
            return batch.images, batch.labels
        unknown = [each for each in batch.captions or ("",) if each not in numbers]
        if batch.captions is None or unknown:
            raise UserError(
                f"teacher.prompts: {unknown[0]!r}, a caption in {reader.uri}, is not "
                "among them: use the set's own listing.parquet"
            )
        return batch.images, torch.tensor([numbers[str(each)] for each in batch.captions])

    return source
