"""Pictures of an evaluation: the same noise side by side, nearest real images, failures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation.comparison import Maker, Source
from pipeline.evaluation.records import SHOWN, Memory
from pipeline.utils.image_grid import save_grid

_COLUMNS = 20


def save_evaluation(maker: Maker, steps: int, path: Path) -> None:
    """Two columns for each of the first ten classes or prompts: noise, teacher, student."""
    labels = maker.labels("student")
    columns, headings = torch.arange(min(_COLUMNS, maker.config.evaluate.count)), []
    if labels is not None:
        chosen = [(labels == label).nonzero()[:2] for label in range(10)]
        columns = torch.cat(chosen).flatten()
        prompts = maker.teacher.prompts
        names = labels[columns].tolist()
        headings = [prompts[name] if prompts else str(name) for name in names]
    save_grid(_same_noise(maker, columns, steps), path, columns=headings)


def save_neighbours(maker: Maker, memory: Memory | None, path: Path) -> None:
    """Images of the student above their nearest real images.

    On the left are those nearest of all, on the right those about the median. No picture without
    real images: one of an earlier evaluation goes.
    """
    if memory is None:
        path.unlink(missing_ok=True)
        return
    close = memory.nearest["features"]
    order, shown = close.distance.argsort(), min(SHOWN, len(close.distance) // 2)
    middle = (len(order) - shown) // 2
    rows = torch.cat([order[:shown], order[middle : middle + shown]])
    pictures = {"student": _shown(maker, "student_real", rows)}
    for space, found in memory.nearest.items():
        caption = "nearest real" if space == "features" else f"nearest, in {space}"
        pictures[caption] = _shown(maker, "real", found.which[rows])
    headings = [f"{distance:.2g}" for distance in close.distance[rows].tolist()]
    save_grid(pictures, path, columns=headings)


def save_failures(maker: Maker, found: dict[str, Any] | None, path: Path) -> None:
    """Images of another class than their label, the surest first: noise, teacher, student.

    No picture where there are none: one of an earlier evaluation goes.
    """
    cases = found["surest"][:_COLUMNS] if found else []
    if not cases:
        path.unlink(missing_ok=True)
        return
    headings = [f"{case['label']} as {case['predicted']}" for case in cases]
    rows = _same_noise(maker, torch.tensor([case["id"] for case in cases]), None)
    save_grid(rows, path, columns=headings)


def _same_noise(maker: Maker, numbers: Tensor, steps: int | None) -> dict[str, Tensor]:
    many = "teacher" if steps is None else f"teacher, {steps} steps"
    return {
        "noise": maker.shown("student", maker.noise("student", numbers) / 3).cpu(),
        many: _shown(maker, "teacher", numbers),
        "student": _shown(maker, "student", numbers),
    }


def _shown(maker: Maker, source: Source, numbers: Tensor) -> Tensor:
    return maker.shown(source, maker.images(source, numbers)).cpu()
