"""Whether images show what their captions say: seen captions, and held-out combinations.

And how much two images of one caption differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.config import EvaluateConfig, PairsConfig, S3Config
from pipeline.data.captioned import CaptionedImages, load_captioned, load_columns
from pipeline.data.sources.source import scaled
from pipeline.diffusion import seeds
from pipeline.evaluation.caption_images import CaptionImages, variety
from pipeline.evaluation.judge import Judge, judged, train_judge
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.reconstruction import mean_psnr, pca_psnr
from pipeline.models.denoiser import Denoiser
from pipeline.models.perceptual.features import FeatureNet
from pipeline.models.vae import VAE
from pipeline.utils.errors import UserError

Part = Literal["seen", "held_out"]
_SHOWN = 10
"""Images of each part in a picture."""
_TWICE = 100
"""Captions of each part that two images are made of."""


@dataclass(frozen=True)
class Judged:
    """Real images of one part, and the right answers to all questions.

    Attributes:
        images: (N, 3, H, W) in [-1, 1].
        captions: One of each image.
        answers: Question -> (N,) int64.
    """

    images: Tensor
    captions: tuple[str, ...]
    answers: Mapping[str, Tensor]

    def rows(self, numbers: Tensor) -> "Judged":
        """These images alone."""
        captions = tuple(self.captions[number] for number in numbers.tolist())
        answers = {name: right[numbers] for name, right in self.answers.items()}
        return Judged(self.images[numbers], captions, answers)


def open_judged(evaluate: EvaluateConfig, seen: str, size: int, s3: S3Config) -> dict[Part, Judged]:
    """Both parts, with answers numbered alike.

    Args:
        evaluate: Names the columns, and the folder of what is held out.
        seen: The folder of the images that the teacher learnt from.
        size: Of the images, in pixels.
        s3: Where S3 is.

    Raises:
        UserError: If a folder cannot be read, or the held-out one has answers that are not seen.
    """
    columns = [column for each in evaluate.judged.values() for column in each]
    folders: dict[Part, tuple[str, str]] = {
        "seen": (seen, "data.folder"),
        "held_out": (str(evaluate.held_out), "evaluate.held_out"),
    }
    numbers: dict[str, dict[str, int]] = {}
    found: dict[Part, Judged] = {}
    for part, (folder, setting) in folders.items():
        images = load_captioned(folder, size, s3, setting)
        values = load_columns(folder, images.files, columns, setting)
        if part == "seen":
            numbers = {name: _numbered(answers) for name, answers in values.items()}
        for name, answers in values.items():
            if new := set(answers) - numbers[name].keys():
                raise UserError(
                    f"{setting}: {sorted(new)[0]!r} in column {name} is nowhere in {seen}; hold "
                    "out combinations of what is seen"
                )
        found[part] = _judged(images, values, numbers)
    return found


@dataclass(frozen=True)
class CaptionFigures:
    """What comes of judging images by their captions.

    Attributes:
        main: Figure and part -> who made the images -> accuracy, or how much those of one caption
            differ; the VAE's and PCA's mean PSNR.
        records: Part -> question -> who -> accuracy with its interval.
        diversity: Part -> who -> how much two images of one caption differ, with its interval;
            and the number of captions, n.
        captions: Of the images that are shown.
        shown: Who -> those images, (n, 3, H, W) in [-1, 1].
    """

    main: dict[str, Any]
    records: dict[str, Any]
    diversity: dict[str, Any]
    captions: tuple[str, ...]
    shown: dict[str, Tensor]


def caption_figures(
    parts: Mapping[Part, Judged],
    networks: Mapping[str, Denoiser],
    pairs: PairsConfig,
    evaluate: EvaluateConfig,
    seed: int,
    net: FeatureNet | None = None,
) -> CaptionFigures:
    """Judge the images that student and teacher make of captions of both parts.

    Args:
        parts: As of `open_judged`.
        networks: "student" and "teacher", on the latents of one VAE.
        pairs: How the teacher makes images.
        evaluate: Figure -> the questions whose mean it is; images per part and at once; further
            guidances of the teacher.
        seed: Of the run.
        net: Whose features tell how much images differ; None: the judge's.
    """
    seen, held_out = parts["seen"], parts["held_out"]
    teacher, judge = networks["teacher"], train_judge(seen.images, seen.answers)
    makers = CaptionImages.of(networks, pairs, evaluate.guidances, evaluate.batch_size)
    main: dict[str, Any] = {}
    records, differ = dict[str, Any](), dict[str, Any]()
    captions, shown = list[str](), dict[str, list[Tensor]]()
    for part, whole in parts.items():
        rng = seeds.generator("captions", part)
        some = whole.rows(torch.randperm(len(whole.captions), generator=rng)[: evaluate.count])
        first = 0 if part == "seen" else evaluate.count
        made = makers.images(some.captions, seed, first)
        sets = {"real": some.images, "reconstruction": _reconstructed(teacher, some.images), **made}
        right = {who: _right(judge, images, some.answers) for who, images in sets.items()}
        for figure, questions in evaluate.judged.items():
            main[f"{figure}_{part}"] = {
                who: float(torch.stack([found[q] for q in questions]).mean())
                for who, found in right.items()
            }
        records[part] = {"n": len(some.captions)} | {
            question: {
                who: bootstrap.mean(found[question])._asdict() for who, found in right.items()
            }
            for question in some.answers
        }
        others = makers.only(*networks).images(
            some.captions[:_TWICE], seed, first + 2 * evaluate.count
        )
        differ[part] = {"n": len(some.captions[:_TWICE])}
        differ[part] |= variety(net or judge.body, made, others)
        main[f"diversity_{part}"] = {who: differ[part][who]["value"] for who in networks}
        note = " (held out)" if part == "held_out" else ""
        captions += [caption + note for caption in some.captions[:_SHOWN]]
        for who, images in sets.items():
            shown.setdefault(who, []).append(images[:_SHOWN])
    again = _reconstructed(teacher, held_out.images)
    factor, channels = _vae(teacher).factor, _vae(teacher).channels
    main["vae_psnr_held_out"] = mean_psnr(again, held_out.images)
    main["pca_psnr_held_out"] = pca_psnr(seen.images, held_out.images, factor, channels)
    together = {who: torch.cat(images) for who, images in shown.items()}
    return CaptionFigures(main, records, differ, tuple(captions), together)


def _numbered(answers: Sequence[str]) -> dict[str, int]:
    return {answer: number for number, answer in enumerate(sorted(set(answers)))}


def _judged(
    images: CaptionedImages,
    values: Mapping[str, list[str]],
    numbers: Mapping[str, Mapping[str, int]],
) -> Judged:
    answers = {
        name: torch.tensor([numbers[name][each] for each in column])
        for name, column in values.items()
    }
    captions = tuple(each[0] for each in images.captions)
    return Judged(scaled(images.pixels), captions, answers)


@torch.no_grad()
def _reconstructed(teacher: Denoiser, images: Tensor) -> Tensor:
    """What the VAE makes of its own latents of images."""
    vae = _vae(teacher)
    parts = (vae.decode(vae.encode(part)) for part in images.split(256))
    return torch.cat([part.clamp(-1, 1) for part in parts])


def _vae(network: Denoiser) -> VAE:
    if network.latents is None:
        raise UserError("evaluate.judged: the teacher has no VAE; set it to {}")
    return network.latents


def _right(judge: Judge, images: Tensor, answers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Question -> 1 for every image that shows the right answer, (N,) float32."""
    found = judged(judge, images.clamp(-1, 1))
    return {name: (found[name] == right).float() for name, right in answers.items()}
