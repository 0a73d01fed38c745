"""Real images of the user: drawn at random from a source, and read by their numbers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.config import EvaluateConfig, S3Config
from pipeline.data.crop import CHANNELS, UnreadableError
from pipeline.data.sources.sample import Annotation, Sample, Wanted
from pipeline.data.sources.source import Reader, Source, scaled, to_samples
from pipeline.diffusion import seeds
from pipeline.evaluation.real import RealPart
from pipeline.evaluation.statistics import KEPT
from pipeline.models.denoiser import Denoiser
from pipeline.utils.errors import UserError
from pipeline.utils.progress import Progress

SETTING = "evaluate.reference"
FEWEST = 20
"""Images that can be compared: half of them still have the neighbours that figures look for."""


@dataclass(frozen=True)
class Reference:
    """Real images of a source; it may travel to other processes.

    Attributes:
        path, kind, s3: Of their source, as of a `Reader`.
        samples: Where each image is; the first `KEPT` are drawn at random from all.
        pixels: Channels, height and width they are brought to.
        shown: What they show, (N,) int64, as the teacher counts classes or prompts; None where it
            knows none of them.
        conditions: Which images student and teacher make to be compared with them, in words.
        total: Images in the source.
        damaged: Of those drawn, how many cannot be read and are left out.
        fingerprint: SHA-256 of the images as they are compared, and of their labels.
    """

    path: str
    kind: str
    s3: S3Config
    samples: tuple[Sample, ...]
    pixels: tuple[int, ...]
    shown: Tensor | None
    conditions: str
    total: int
    damaged: int
    fingerprint: str
    kept: ClassVar[int] = KEPT

    @property
    def counts(self) -> dict[RealPart, int]:
        """All are compared with, none is held out."""
        return {"real": len(self.samples)}

    def labels(self, part: RealPart) -> Tensor | None:
        """As `shown`."""
        return self.shown

    def images(self, part: RealPart, numbers: Tensor) -> Tensor:
        """These images, (n, C, H, W) float32 in [-1, 1].

        Raises:
            UserError: If the source refuses, or one cannot be read here, which could be before.
        """
        wanted = [self.samples[number] for number in numbers.tolist()]
        found = []
        reader = Reader(self.path, self.kind, self.s3, SETTING)
        for sample, pixels in zip(wanted, reader.pixels(wanted, *self.pixels), strict=True):
            if isinstance(pixels, UnreadableError):
                raise UserError(
                    f"{SETTING}: {sample.name} could be read before, and now cannot ({pixels}); "
                    "install the same constraints.txt on every node, or run again if it has changed"
                )
            found.append(scaled(pixels))
        return torch.stack(found)


def open_reference(evaluate: EvaluateConfig, s3: S3Config, teacher: Denoiser) -> Reference | None:
    """The images of `evaluate.reference`, no more than `evaluate.count`; each is read once.

    Args:
        evaluate: Names the images, and how many to take.
        s3: Where S3 is.
        teacher: The network, whose size and classes or prompts they are brought to.

    Raises:
        UserError: If there are too few, or they cannot be listed; if the source refuses, or more
            than half of those drawn cannot be read; if the teacher's are not grey or in colours.
    """
    path, count = evaluate.reference, evaluate.count
    if path is None:
        return None
    if len(teacher.pixels) > 3:
        raise UserError(f"{SETTING}: the teacher makes videos, and these are images; give null")
    if teacher.pixels[0] not in CHANNELS:
        raise UserError(
            f"{SETTING}: the teacher makes images of {teacher.pixels[0]} channels, real ones have "
            "1 or 3; give null"
        )
    source = Source(path, s3, SETTING)
    table, wanted = _listed(source, teacher)
    order = torch.randperm(len(table), generator=seeds.generator("reference"))[:count].tolist()
    samples = dict(zip(sorted(order), to_samples(table, sorted(order)), strict=True))
    damaged, digest = _looked_through(source, samples, teacher.pixels)
    sound = [id for id in order if id not in damaged]
    if len(sound) < FEWEST:
        raise UserError(
            f"{SETTING}: {len(sound)} images of {path} to compare with, and {FEWEST} are needed; "
            "give more, or raise evaluate.count"
        )
    # Those whose features are kept come first; either part in the order in which they lie.
    chosen = [samples[id] for id in sorted(sound[:KEPT]) + sorted(sound[KEPT:])]
    labels = _labels(chosen, wanted, teacher)
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    conditions = _conditions(wanted if labels is not None else "nothing", teacher)
    print(f"reference  {len(chosen)} of {len(table)} images; the networks make {conditions}")
    return Reference(
        path=path,
        kind=source.kind,
        s3=s3,
        samples=tuple(chosen),
        pixels=teacher.pixels,
        shown=labels,
        conditions=conditions,
        total=len(table),
        damaged=len(damaged),
        fingerprint=digest.hexdigest(),
    )


def _listed(source: Source, teacher: Denoiser) -> tuple[Any, Wanted]:
    """All images, with what they show where each has an annotation."""
    if teacher.classes is None:
        return source.table("nothing", None), "nothing"
    wanted: Wanted = "labels" if teacher.prompts is None else "captions"
    try:
        return source.table(wanted, teacher.classes if wanted == "labels" else None), wanted
    except UserError as error:
        table = source.table("nothing", None)
        print(f"reference  their {wanted} are not used: {error}")
        return table, "nothing"


def _looked_through(
    source: Source, samples: Mapping[int, Sample], pixels: tuple[int, ...]
) -> tuple[set[int], Any]:
    """The ids of images that cannot be read, and a digest of the others."""
    damaged: dict[int, str] = {}
    digest = hashlib.sha256()
    with Progress(len(samples), "reference", "images") as bar:
        found = source.reader().pixels(samples.values(), *pixels)
        for (id, sample), image in zip(samples.items(), found, strict=True):
            if isinstance(image, UnreadableError):
                damaged[id] = f"{sample.name}: {image}"
            else:
                digest.update(image.numpy().tobytes())
            bar.update(1)
    if damaged:
        problem = f"{len(damaged)} of {len(samples)} images cannot be read"
        first = next(iter(damaged.values()))
        if 2 * len(damaged) > len(samples):
            raise UserError(f"{SETTING}: {problem}, the first of them {first}; mend {source.path}")
        print(f"reference  {problem} and are left out, the first {first}")
    return set(damaged), digest


def _labels(chosen: Sequence[Sample], wanted: Wanted, teacher: Denoiser) -> Tensor | None:
    """What the images show, as the teacher counts it; None where it knows none of that."""
    annotations = [_first(sample.annotation) for sample in chosen]
    if wanted == "captions":
        numbers = {prompt: number for number, prompt in enumerate(teacher.prompts or ())}
        if strange := [each for each in annotations if each not in numbers]:
            print(
                f"reference  their captions are not used: {len(strange)} of {len(annotations)} are "
                f"not among teacher.prompts, the first {strange[0]!r}"
            )
            return None
        annotations = [numbers[str(each)] for each in annotations]
    return None if wanted == "nothing" else torch.tensor(annotations)


def _first(annotation: Annotation) -> str | int | None:
    return annotation[0] if isinstance(annotation, tuple) else annotation


def _conditions(own: Wanted, teacher: Denoiser) -> str:
    if teacher.classes is None:
        return "images of no condition"
    if own != "nothing":
        return f"images of the same {own}"
    return f"images of all {'classes' if teacher.prompts is None else 'prompts'} in turn"
