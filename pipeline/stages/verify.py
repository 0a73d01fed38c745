"""Look at a closed set of pairs or of real images, and check every byte of it."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Config, PairsConfig, TeacherConfig
from pipeline.data import real, schema, shards
from pipeline.data.fetch import fetch_inputs
from pipeline.data.manifest import Manifest, Shard
from pipeline.data.plans import PairPlan, RealPlan
from pipeline.data.reader import PairReader
from pipeline.data.sources.listing import Listing
from pipeline.data.sources.sample import Annotation
from pipeline.data.storage import Storage, Store
from pipeline.diffusion import seeds
from pipeline.models.loading import teacher_fingerprint
from pipeline.models.sampling import sample_teacher
from pipeline.stages.check_shards import check_shards, read_shard
from pipeline.stages.pairs import pair_teacher
from pipeline.utils.errors import DamagedError, UserError
from pipeline.utils.image_grid import save_grid

TOLERANCE = 0.02
"""Largest difference of a pixel solved again, in [-1, 1]: other hardware rounds otherwise."""
TOLERANCE_BF16 = 0.2
"""RMS of the differences, to that of the images, of pairs in bf16: a batch of another size rounds
otherwise too, and single pixels may be far apart. Pairs of another teacher are 1 apart and more."""
_LINES, _COLUMNS = 20, 10


def inspect(config: Config) -> None:
    """Print the manifest of a set as a table, and draw its first pairs.

    Raises:
        UserError: If there is no complete set, or a shard or the picture's folder is unusable.
    """
    store = Storage(config.pairs.output, config.s3, "pairs.output")
    manifest = shards.read_manifest(store)
    plan, size = manifest.plan, sum(shard.bytes for shard in manifest.shards)
    print(f"set      {store.uri('')}")
    print(f"pairs    {manifest.count} in {len(manifest.shards)} shards, {size:,} bytes")
    print(f"images   {plan.buckets}, classes {plan.classes}, float16")
    print(f"solver   {plan.solver}, {plan.steps} steps, {plan.guided}, {plan.precision}")
    print(f"seed     {plan.seed}\nteacher  {plan.teacher}")
    if plan.prompts is not None:
        print(f"prompts  {plan.classes}, away from {plan.negative_prompt!r}")
        for number, prompt in enumerate(_prompts(store, manifest)):
            print(f"{number:8} {prompt}")
    _print_shards(manifest)
    picture = Path(config.run) / "pairs.png"
    _draw(store, manifest, picture)
    print(f"\npicture  {picture}")


def inspect_real(config: Config) -> None:
    """Print the manifest of a set of real images as a table, and draw its first ones.

    Raises:
        UserError: As `inspect`.
    """
    store = Storage(config.encode.output, config.s3, "encode.output")
    manifest = shards.read_manifest(store, RealPlan)
    plan, size = manifest.plan, sum(shard.bytes for shard in manifest.shards)
    print(f"set      {store.uri('')}")
    print(f"images   {manifest.count} in {len(manifest.shards)} shards, {size:,} bytes")
    print(f"rows     {plan.buckets}, classes {plan.classes}, float16")
    sizes = ("x".join(map(str, plan.pixels(shape))) for shape in plan.buckets.shapes)
    print(f"from     {' or '.join(sizes)} pixels\ncodec    {plan.codec}")
    for each in islice(real.damaged(store), _COLUMNS):
        print(f"left out {each.id} {each.image}: {each.reason}")
    first = next(shard for shard in manifest.shards if shard.rows)
    with store.open(first.name) as file:
        where = store.uri(first.name)
        shape = plan.shape_of(first.first)
        batch = real.decode(file, 0, shape, plan.fingerprint(), where).float()
    for number, caption in zip(batch.ids.tolist(), (batch.captions or ())[:_COLUMNS], strict=False):
        print(f"{number:8} {caption}")
    _print_shards(manifest)
    picture = Path(config.run) / "real.png"
    labels = [] if batch.labels is None else [f"{label}" for label in batch.labels[:_COLUMNS]]
    colours = slice(0, 3 if plan.shape[0] >= 3 else 1)
    save_grid({"image": batch.images[:_COLUMNS, colours]}, picture, columns=labels)
    print(f"\npicture  {picture}")


def verify(config: Config) -> None:
    """Read every pair of a set again and check it.

    Checked are each shard's size, plan, checksum, ids and labels, and that its values are finite.
    Printed besides are mean and standard deviation of each channel, and how many images are
    there more than once. As many as `pairs.resolve` random pairs are solved again, in the set's
    precision: their noise must be the same bit for bit, their images within `TOLERANCE`, or of
    pairs in bf16 `TOLERANCE_BF16`.

    Raises:
        UserError: If there is no complete set, or anything is wrong with it; names the shards.
    """
    store = Storage(config.pairs.output, config.s3, "pairs.output")
    manifest = shards.read_manifest(store)
    plan, stored = manifest.plan, store.list("pairs-")
    if config.pairs.resolve:
        config = fetch_inputs(config, "teacher")
        manifest.check_teacher(teacher_fingerprint(config.teacher))
    _check_all(
        manifest, lambda shard: _sound_images(store, plan, shard, stored.get(shard.name)), "pairs"
    )
    if config.pairs.resolve:
        _resolve(config.teacher, config.pairs, config.seed, store, manifest)


def verify_real(config: Config) -> None:
    """Read every real image of a set again and check it.

    Checked are each shard's size, plan, checksum and ids, that labels or captions are those of the
    listing, and that values are finite. Printed besides is what `verify` prints.

    Raises:
        UserError: If there is no complete set, or anything is wrong with it; names the shards.
    """
    store = Storage(config.encode.output, config.s3, "encode.output")
    manifest = shards.read_manifest(store, RealPlan)
    plan, stored, listing = manifest.plan, store.list("real-"), Listing(store)
    spans = {span.start: span for span in plan.spans(plan.count)}
    left_out = {each.id for each in real.damaged(store)}

    def images(shard: Shard) -> Tensor:
        listed = zip(spans[shard.first], listing.samples(spans[shard.first]), strict=True)
        expected = {id: sample.annotation for id, sample in listed if id not in left_out}
        if len(expected) != shard.rows:
            raise UserError(
                f"{store.uri(f'manifest-{plan.count}.json')} gives {shard.name} {shard.rows} rows, "
                f"not {len(expected)}; delete it and run {plan.kind.job} again"
            )
        return _sound_real(store, plan, shard, stored.get(shard.name), expected)

    _check_all(manifest, images, "images")


def _check_all(manifest: Manifest[Any], sound: Callable[[Shard], Tensor], unit: str) -> None:
    """Go through all shards, and say what their images are like.

    Args:
        manifest: Of the set.
        sound: A shard's images, (B, C, *space); raises DamagedError if anything is wrong with it.
        unit: What a row is, in the plural.
    """
    plan, prints = manifest.plan, [np.zeros(0, dtype=np.uint64)]
    sums, pixels = torch.zeros(2, plan.shape[0], dtype=torch.float64), 0

    def note(shard: Shard) -> None:
        nonlocal pixels
        images = sound(shard)
        prints.append(_fingerprints(images))
        values = images.double().transpose(0, 1).flatten(1)
        sums.add_(torch.stack([values.sum(1), values.square().sum(1)]))
        pixels += values.shape[1]

    check_shards(manifest, note, unit)
    mean, square = sums / pixels
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    for channel, figures in enumerate(zip(mean.tolist(), deviation.tolist(), strict=True)):
        print(f"verify   channel {channel}: mean {figures[0]:.4f}, deviation {figures[1]:.4f}")
    twice = manifest.count - len(np.unique(np.concatenate(prints)))
    print(f"verify   {manifest.count} {unit} are sound, {twice} of their images a second time")


def _sound_real(
    store: Store, plan: RealPlan, shard: Shard, size: int | None, expected: dict[int, Annotation]
) -> Tensor:
    """As `_sound_images`; expected are the ids, and the label or caption of each."""
    shape = plan.shape_of(shard.first)
    content = read_shard(
        store, plan, shard, size, lambda file, name: real.decode_all(file, shape, name)
    )
    batch = content.batch
    if batch.ids.tolist() != list(expected):
        raise DamagedError("holds other ids than its name says")
    if (batch.labels is not None) != (plan.classes is not None) or (
        batch.captions is not None
    ) != plan.captions:
        raise DamagedError("has other columns than its plan says")
    found = batch.captions if batch.labels is None else batch.labels.tolist()
    if found is not None and list(found) != list(expected.values()):
        raise DamagedError("holds other labels or captions than the listing has")
    if not batch.images.isfinite().all():
        raise DamagedError("holds values that are not finite")
    return batch.images


def _sound_images(store: Store, plan: PairPlan, shard: Shard, size: int | None) -> Tensor:
    """A shard's images, (B, C, H, W) float16; raises DamagedError if anything is wrong with it."""
    shape = plan.shape_of(shard.first)
    content = read_shard(
        store, plan, shard, size, lambda file, name: schema.decode_all(file, shape, name)
    )
    pairs = content.batch
    ids = shards.ids(plan, shard.first // plan.shard_size)
    labels = shards.labels(plan, ids)
    if not torch.equal(pairs.ids, ids):
        raise DamagedError("holds other ids than its name says")
    if not _equal(labels, pairs.labels):
        raise DamagedError("holds other labels than its ids have")
    if not (pairs.noise.isfinite().all() and pairs.images.isfinite().all()):
        raise DamagedError("holds values that are not finite")
    return pairs.images


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _fingerprints(images: Tensor) -> np.ndarray:
    """One 64-bit number for each image, (B,): equal for equal images."""
    rows = images.flatten(1).numpy()
    return np.array([hash(row.tobytes()) for row in rows], dtype=np.int64).view(np.uint64)


def _resolve(
    teacher: TeacherConfig, settings: PairsConfig, seed: int, store: Store, manifest: Manifest
) -> None:
    """Compare random pairs, chosen by a seed, with what their own and the teacher give now."""
    plan, rows = manifest.plan, settings.batch_size or manifest.plan.shard_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = pair_teacher(teacher, plan.precision, device)
    solver = plan.solver, plan.steps, plan.guided
    solved, largest, shapes = 0, 0.0, plan.buckets.shapes
    squares = torch.zeros(2, dtype=torch.float64)
    for shape in shapes:
        part, solve = manifest.of(shape), network.at(shape)
        count = min(-(-settings.resolve // len(shapes)), part.count)
        pairs = PairReader(store, seed, count, manifest=part).batch(0)
        noise = schema.storable(seeds.noise(plan.seed, pairs.ids, shape, stream=seeds.PAIRS))
        if not torch.equal(noise, pairs.noise):
            raise UserError(f"{store.uri('')} holds other noise than its seed {plan.seed} gives")
        for first in range(0, count, rows):
            few = pairs.rows(slice(first, first + rows)).to(device)
            again = sample_teacher(solve, few.noise, few.labels, *solver)
            apart = again - few.images
            largest = max(largest, float(apart.abs().max().nan_to_num(torch.inf)))
            both = torch.stack([apart, few.images]).double()
            squares += both.square().flatten(1).sum(1).cpu()
        solved += count
    rms = float((squares[0] / squares[1]).sqrt())
    print(
        f"verify   {solved} pairs solved again: largest difference {largest:.2g}, RMS {rms:.2g} of "
        f"the images', in {plan.precision}"
    )
    if plan.precision == "bf16":
        sound, told = rms <= TOLERANCE_BF16, f"{rms:.2g} of their RMS, more than {TOLERANCE_BF16}"
    else:
        sound, told = largest <= TOLERANCE, f"up to {largest:.2g} of 2, more than {TOLERANCE}"
    if not sound:
        raise UserError(
            f"pairs solved again differ by {told}: make them again in a new pairs.output"
        )


def _print_shards(manifest: Manifest[Any]) -> None:
    width, rows = len(manifest.shards[0].name), manifest.plan.kind.prefix
    print(f"\n{'shard':{width}} {'first id':>12} {rows:>7} {'bytes':>13}")
    for shard in manifest.shards[:_LINES]:
        print(f"{shard.name:{width}} {shard.first:12} {shard.rows:7} {shard.bytes:13,}")
    if len(manifest.shards) > _LINES:
        print(f"... and {len(manifest.shards) - _LINES} more")


def _prompts(store: Store, manifest: Manifest) -> list[str]:
    """Of the first pairs."""
    shard = manifest.shards[0].name
    with store.open(shard) as file:
        content = schema.decode_all(file, manifest.plan.shape_of(0), store.uri(shard))
    return (content.prompts or [])[:_COLUMNS]


def _draw(store: Store, manifest: Manifest, picture: Path) -> None:
    """The first pairs, noise over image; of more than three channels the first three."""
    plan, shard = manifest.plan, manifest.shards[0]
    with store.open(shard.name) as file:
        where = store.uri(shard.name)
        batch = schema.decode(file, 0, plan.shape_of(0), plan.fingerprint(), where).float()
    colours = slice(0, 3 if plan.shape[0] >= 3 else 1)
    rows = {"noise": batch.noise / 3, "image": batch.images}
    labels = [] if batch.labels is None else [f"{label}" for label in batch.labels[:_COLUMNS]]
    save_grid(
        {name: images[:_COLUMNS, colours] for name, images in rows.items()}, picture, columns=labels
    )
