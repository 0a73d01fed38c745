"""What defines the content of a set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from pipeline.data import schema
from pipeline.data.schema import Kind
from pipeline.diffusion.buckets import Buckets, Shape
from pipeline.diffusion.guidance import Guidance
from pipeline.utils.errors import UserError


class Plan:
    """All that defines the content of a set; each kind of set has a frozen dataclass of them.

    Their fields are of JSON's types, or tuples; one is the `version` of the layout, with the
    present one as its default.
    """

    kind: ClassVar[Kind]
    later: ClassVar[tuple[str, ...]] = ()
    """Fields that older sets have not: at their default, files and hashes do not have them."""

    def values(self) -> dict[str, Any]:
        """The fields by name, as files and hashes have them."""
        values = asdict(self)  # type: ignore[call-overload]
        for field in fields(self):  # type: ignore[arg-type]
            if field.name in self.later and values[field.name] == field.default:
                del values[field.name]
        return values

    def spans(self, count: int) -> list[range]:
        """The sample ids of each shard, in a set of so many.

        Raises:
            UserError: If there can be no such set.
        """
        raise NotImplementedError

    def way_out(self, differing: Sequence[str]) -> str:
        """Of fields that a stored plan has otherwise, how the user goes on with it; "" for none."""
        return ""

    def name(self, ids: range) -> str:
        """Of the shard of these sample ids."""
        return f"{self.kind.prefix}-{ids.start:012d}-{ids.stop:012d}.parquet"

    def fingerprint(self) -> str:
        """Short hash of all fields."""
        return hashlib.sha256((json.dumps(self.values(), indent=1) + "\n").encode()).hexdigest()[
            :16
        ]

    def footer(self, **more: str) -> dict[str, str]:
        """What a shard says of its plan, and more; the order is part of a shard's bytes."""
        text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.values().items()}
        return {**text, **more, "plan": self.fingerprint()}


class BucketPlan(Plan):
    """Of a set of images whose shards are of one shape each, dealt in the shares of its buckets.

    Attributes:
        shape: One row, (C, *space); of several shapes the first.
        shard_size: Rows in a shard.
        shapes, shares: Of its buckets, where there are several; else None.
    """

    shape: Shape
    shard_size: int
    shapes: tuple[Shape, ...] | None
    shares: tuple[int, ...] | None

    @property
    def deck(self) -> tuple[int | str, ...]:
        """What its shards are dealt by, as the key of `Buckets.place`."""
        raise NotImplementedError

    @property
    def buckets(self) -> Buckets:
        """Its shapes, and the share of each."""
        if self.shapes is None or self.shares is None:
            return Buckets.one(self.shape)
        return Buckets(self.shapes, self.shares)

    def shape_of(self, first: int) -> Shape:
        """Of the rows of the shard that begins with this id."""
        buckets = self.buckets
        return buckets.shapes[buckets.place(first // self.shard_size, *self.deck).bucket]

    def lacking(self, spans: Sequence[range]) -> Shape | None:
        """The first of several shapes that none of a set's shards is of."""
        if self.shapes is None:
            return None
        found = {self.shape_of(span.start) for span in spans[: self.buckets.round]}
        return next((shape for shape in self.buckets.shapes if shape not in found), None)


def bucket_fields(
    buckets: Buckets,
) -> tuple[tuple[Shape, ...] | None, tuple[int, ...] | None]:
    """`shapes` and `shares` of a `BucketPlan`."""
    several = len(buckets.shapes) > 1
    return (buckets.shapes, buckets.weights) if several else (None, None)


@dataclass(frozen=True)
class PairPlan(BucketPlan):
    """All that defines the content of a pair set (not its count, batch size or machines).

    Attributes:
        teacher: Fingerprint of the teacher.
        seed: Seed of the noise.
        solver: Name of the ODE solver.
        steps: Its number of steps.
        guidance: Guidance scale; 1 means the conditional prediction alone.
        shard_size: Pairs in a shard.
        shape: One image, (C, H, W); of several shapes the first.
        classes: Number of class labels, or None for an unconditional teacher.
        weights: Relative frequency of each class; None means all alike.
        prompts: SHA-256 of the prompts that the classes are, or None.
        negative_prompt: What guidance leads away from, or None.
        guidance_until, guidance_norm, guidance_2: As in `pipeline.diffusion.guidance.Guidance`.
        shapes, shares: Of its buckets, where there are several; else None. A shard is of one.
        precision: What the teacher's network computed in: "fp32" or "bf16".
        version: Version of the layout.
    """

    teacher: str
    seed: int
    solver: str
    steps: int
    guidance: float
    shard_size: int
    shape: tuple[int, ...]
    classes: int | None
    weights: tuple[float, ...] | None = None
    prompts: str | None = None
    negative_prompt: str | None = None
    guidance_until: float = 1.0
    guidance_norm: bool | None = None
    guidance_2: float | None = None
    shapes: tuple[Shape, ...] | None = None
    shares: tuple[int, ...] | None = None
    precision: str = "fp32"
    version: int = schema.VERSION
    kind: ClassVar[Kind] = schema.PAIRS
    later: ClassVar[tuple[str, ...]] = (
        *("guidance_until", "guidance_norm", "guidance_2"),
        *("shapes", "shares", "precision"),
    )

    @property
    def guided(self) -> Guidance:
        """How the teacher is guided."""
        return Guidance(self.guidance, self.guidance_until, self.guidance_norm, self.guidance_2)

    @property
    def deck(self) -> tuple[int | str, ...]:
        return "shards", self.seed

    def way_out(self, differing: Sequence[str]) -> str:
        other = "fp32" if self.precision == "bf16" else "bf16"
        return f", or set pairs.precision {other}" if [*differing] == ["precision"] else ""

    def spans(self, count: int) -> list[range]:
        """Whole shards, one of each shape at least; see `Plan.spans`."""
        whole, rest = divmod(count, self.shard_size)
        if rest or whole < 1:
            below, above = max(whole, 1) * self.shard_size, (whole + 1) * self.shard_size
            nearest = f"{below} or {above}" if whole else f"{above}"
            raise UserError(
                f"pairs.count {count} is not a whole number of shards of "
                f"pairs.shard_size {self.shard_size}: use {nearest}"
            )
        spans = [
            range(first, first + self.shard_size) for first in range(0, count, self.shard_size)
        ]
        if (lacking := self.lacking(spans)) is not None:
            deck = self.buckets.round
            raise UserError(
                f"pairs.count: {len(spans)} shards hold none of {Buckets.one(lacking)}; "
                f"{deck * self.shard_size} ({deck} shards of pairs.shard_size) have all in their "
                "shares"
            )
        return spans


@dataclass(frozen=True)
class RealPlan(BucketPlan):
    """All that defines the content of a set of real images.

    Attributes:
        codec: Fingerprint of the VAE that made latents of them, or "pixels".
        source: Fingerprint of the source's listing.
        count: Images in the source, sample ids 0 to count - 1.
        size: Height and width that they are cropped and resized to, in pixels; of several shapes
            the first's.
        shard_size: Images in a shard; the last may have fewer.
        shape: One row, (C, H, W); of several shapes the first.
        classes: Number of class labels, or None.
        captions: Whether each has a caption.
        shapes, shares: Of its buckets, where there are several; else None. A shard is of one.
        version: Version of the layout.
    """

    codec: str
    source: str
    count: int
    size: tuple[int, int]
    shard_size: int
    shape: tuple[int, ...]
    classes: int | None
    captions: bool
    shapes: tuple[Shape, ...] | None = None
    shares: tuple[int, ...] | None = None
    version: int = 1
    kind: ClassVar[Kind] = schema.REAL
    later: ClassVar[tuple[str, ...]] = ("shapes", "shares")

    @property
    def deck(self) -> tuple[int | str, ...]:
        return ("real shards",)

    def pixels(self, shape: Shape) -> tuple[int, int]:
        """Height and width of the images that rows of this shape are made of."""
        factor, (height, width) = self.size[0] // self.shape[1], shape[1:]
        return height * factor, width * factor

    def spans(self, count: int) -> list[range]:
        """The last one as short as it comes, one of each shape at least; see `Plan.spans`."""
        spans = _spans(count, self.shard_size)
        if (lacking := self.lacking(spans)) is not None:
            deck = self.buckets.round
            way_out = f"use {count // deck} or less" if count >= deck else f"give {deck} images"
            raise UserError(
                f"encode.shard_size: {len(spans)} shards of {count} images hold none of "
                f"{Buckets.one(lacking)}; {way_out}"
            )
        return spans


@dataclass(frozen=True)
class ConditionPlan(Plan):
    """All that defines the content of a set of conditions.

    Attributes:
        family: Of the teacher: how its code makes conditions of prompts.
        pipeline: The class of diffusers' pipeline that encodes them, with its flags.
        encoders: Fingerprint of the text encoders.
        tokenizers: Fingerprint of their tokenizers, chat templates aside.
        template: Fingerprint of the chat templates; None for a family that has none.
        prompts: SHA-256 of the file of prompts.
        count: Number of prompts; their ids are 0 to count - 1.
        negative_prompt: What the row of id `count` is of; None where there is no such row, for a
            network that knows no condition.
        precision: Of floating-point values: "fp16", "bf16" or "fp32".
        shard_size: Rows in a shard; the last may have fewer.
        images: Fingerprint of what encodes the images beside prompts, with their size; None where
            there are none. The images themselves are in that of the prompts.
        version: Version of the layout.
    """

    family: str
    pipeline: str
    encoders: str
    tokenizers: str
    template: str | None
    prompts: str
    count: int
    negative_prompt: str | None
    precision: str
    shard_size: int
    images: str | None = None
    version: int = 1
    kind: ClassVar[Kind] = schema.CONDITIONS
    later: ClassVar[tuple[str, ...]] = ("images",)

    @property
    def rows(self) -> int:
        """Of all prompts, and of the negative one."""
        return self.count + (self.negative_prompt is not None)

    def spans(self, count: int) -> list[range]:
        """The last one as short as it comes; see `Plan.spans`."""
        return _spans(count, self.shard_size)


def _spans(count: int, shard_size: int) -> list[range]:
    firsts = range(0, count, shard_size)
    return [range(first, min(first + shard_size, count)) for first in firsts]
