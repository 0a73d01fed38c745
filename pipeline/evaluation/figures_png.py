"""Pictures of an evaluation: the same noise side by side, nearest real images, failures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation.captions import CaptionFigures
from pipeline.evaluation.image_sets import ImageSets, SetName
from pipeline.evaluation.memorization import SHOWN, Memorization
from pipeline.utils.image_grid import save_grid

_COLUMNS, _PROMPTS = 20, 10
_SHORT = {"reconstruction": "VAE"}


def save_evaluation(sets: ImageSets, steps: int, path: Path) -> None:
    """Noise, teacher, student: two columns for each of ten classes, or a row for each prompt."""
    labels, prompts = sets.labels("student"), sets.teacher.prompts
    if labels is not None and prompts is not None:
        _save_by_prompt(sets, [prompts[label] for label in labels.tolist()], path)
        return
    columns, headings = torch.arange(min(_COLUMNS, sets.count)), []
    if labels is not None:
        chosen = [(labels == label).nonzero()[:2] for label in range(10)]
        columns = torch.cat(chosen).flatten()
        headings = [str(label) for label in labels[columns].tolist()]
    save_grid(_same_noise(sets, columns, steps), path, columns=headings)


def _save_by_prompt(sets: ImageSets, prompts: Sequence[str], path: Path) -> None:
    """Of prompts that lie evenly among those of all images, one image each."""
    first = {prompt: number for number, prompt in reversed(list(enumerate(prompts)))}
    shown = sorted(first.values())[:: max(1, len(first) // _PROMPTS)][:_PROMPTS]
    rows = _same_noise(sets, torch.tensor(shown), None)
    turned = zip(*rows.values(), strict=True)
    by_prompt = {prompts[n]: torch.stack(each) for n, each in zip(shown, turned, strict=True)}
    save_grid(by_prompt, path, columns=list(rows))


def save_neighbours(sets: ImageSets, found: Memorization | None, path: Path) -> None:
    """Images of the student above their nearest real images.

    On the left are those nearest of all, on the right those about the median. Without real images,
    the picture of an earlier evaluation is removed.
    """
    if found is None:
        path.unlink(missing_ok=True)
        return
    close = found.nearest["features"]
    order, shown = close.distance.argsort(), min(SHOWN, len(close.distance) // 2)
    middle = (len(order) - shown) // 2
    rows = torch.cat([order[:shown], order[middle : middle + shown]])
    pictures = {"student": _decoded(sets, "student_real", rows)}
    for space, nearest in found.nearest.items():
        caption = "nearest real" if space == "features" else f"nearest, in {space}"
        pictures[caption] = _decoded(sets, "real", nearest.which[rows])
    headings = [f"{distance:.2g}" for distance in close.distance[rows].tolist()]
    save_grid(pictures, path, columns=headings)


def save_failures(sets: ImageSets, found: dict[str, Any] | None, path: Path) -> None:
    """Noise, teacher and student of images taken for another class, the surest first.

    Without any, the picture of an earlier evaluation is removed.
    """
    cases = found["surest"][:_COLUMNS] if found else []
    if not cases:
        path.unlink(missing_ok=True)
        return
    headings = [f"{case['label']} as {case['predicted']}" for case in cases]
    rows = _same_noise(sets, torch.tensor([case["id"] for case in cases]), None)
    save_grid(rows, path, columns=headings)


def save_captions(found: CaptionFigures | None, path: Path) -> None:
    """A row for each caption, seen ones first: the real image, the VAE's, teacher's, student's.

    Without judged captions, the picture of an earlier evaluation is removed.
    """
    if found is None:
        path.unlink(missing_ok=True)
        return
    rows = {
        caption: torch.stack([images[number] for images in found.shown.values()])
        for number, caption in enumerate(found.captions)
    }
    save_grid(
        rows, path, columns=[_SHORT.get(who, who.removeprefix("teacher ")) for who in found.shown]
    )


def _same_noise(sets: ImageSets, numbers: Tensor, steps: int | None) -> dict[str, Tensor]:
    many = "teacher" if steps is None else f"teacher, {steps} steps"
    return {
        "noise": sets.decoded("student", sets.noise("student", numbers) / 3).cpu(),
        many: _decoded(sets, "teacher", numbers),
        "student": _decoded(sets, "student", numbers),
    }


def _decoded(sets: ImageSets, name: SetName, numbers: Tensor) -> Tensor:
    return sets.decoded(name, sets.images(name, numbers)).cpu()
