"""What the figures of an evaluation come to, in plain words."""

from collections.abc import Iterator
from typing import Any

COLLAPSED, NARROWER = 0.5, 0.9
"""Of the yardstick's recall or coverage, below which a student is called collapsed or narrower;
narrower for its diversity too."""
REMEMBERED = 0.5
"""Of the usual distance to training images, below which a set of images is called remembered."""
COPIES = 0.2
"""Part of a set, nearer than 95% of held-out images, from which the nearest are called copies."""
WORSE_BY = 0.02
"""Accuracy that a student may lose."""

Figures = dict[str, Any]
"""As `evaluation.json` has them."""


def verdict(figures: Figures) -> list[str]:
    """Sentences on an evaluation, as `evaluation.json` has it: faults, then what is good.

    A figure is only held against others of the same comparison, which have the same n, reference
    and features.
    """
    faults = [*_variety(figures), *_within(figures), *_memory(figures), *_likeness(figures)]
    return [*faults, *([] if faults else [_praise(figures)]), _speed(figures)]


def _variety(figures: Figures) -> Iterator[str]:
    """Recall and coverage beside the teacher's, or beside the floor where it is the reference."""
    for comparison in figures["metrics"]["comparisons"]:
        compared, found = comparison["figures"], []
        for name in ("recall", "coverage"):
            sides = compared.get(name, {})
            side = "teacher" if sides.get("teacher") else "floor"
            if sides.get(side):
                found.append((name, sides["student"]["value"], sides[side]["value"], side))
        if not found:
            continue
        name, ours, usual, side = min(found, key=lambda each: each[1] - each[2])
        whose = "the teacher's" if side == "teacher" else "the teacher's from other noise"
        both = f"{name} {ours:.2f} against {whose} {usual:.2f}"
        what = f"the {comparison['reference']['name'].partition(',')[0]} images"
        if ours < COLLAPSED * usual:
            yield f"Collapsed: the student leaves out most of {what} ({both}, n {comparison['n']})."
        elif ours < NARROWER * usual:
            yield f"Less variety than its teacher among {what} ({both}, n {comparison['n']})."
        return


def _within(figures: Figures) -> Iterator[str]:
    """How much images of one prompt or class differ, beside the teacher's, or real ones if less."""
    found = figures["metrics"]
    records = [found.get("diversity"), found.get("caption_diversity", {}).get("seen")]
    for record in filter(None, records):
        ours, sides = record["student"]["value"], [record["teacher"], record.get("real")]
        usual = min(each["value"] for each in sides if each)
        if ours < NARROWER * usual:
            yield (
                "Less variety than its teacher among images of one prompt or class (diversity "
                f"{ours:.2f} against {usual:.2f})."
            )
            return


def _memory(figures: Figures) -> Iterator[str]:
    """Distances to training images beside those of images that were never trained on."""
    if (found := figures["metrics"].get("neighbours")) is None:
        return
    for space in ("features", "pixels"):
        ours, teachers = found[space]["student"], found[space]["teacher"]
        ratio, usual = ours["ratio"]["value"], teachers["ratio"]["value"]
        closer = ours["closer"]["value"]
        inherited = "; so are its teacher's" if usual < REMEMBERED else ""
        if ratio < REMEMBERED:
            yield (
                f"Memorising: the student's images are {ratio:.2f} times as far from training "
                f"images as held-out images are, in {space}{inherited}; see neighbours.png."
            )
            return
        if closer > max(COPIES, 2 * teachers["closer"]["value"]):
            yield (
                f"Partly memorising: {closer:.0%} of the student's images are nearer to training "
                f"images than 95% of held-out images are, in {space}; see neighbours.png."
            )
            return


def _likeness(figures: Figures) -> Iterator[str]:
    """Accuracy and Fréchet distances."""
    ours, usual = figures["accuracy"], figures["teacher_accuracy"]
    if ours is not None and ours < usual - WORSE_BY:
        yield f"Wrong classes more often than its teacher: accuracy {ours:.3f} against {usual:.3f}."
    real, teacher_real = figures["fd_real"], figures["teacher_fd_real"]
    if real is not None and real > 1.5 * teacher_real:
        yield (
            f"Further from real images than its teacher: Fréchet distance {real:.3g} against "
            f"{teacher_real:.3g}, n {figures['n_real']}."
        )
    if real is not None and teacher_real > 10 * real:
        yield (
            "The teacher is much further from real images than the student: Fréchet distance "
            f"{teacher_real:.3g} against {real:.3g}, n {figures['n_real']}: it takes too few "
            "steps (pairs.steps), or is not the student's."
        )
    apart, floor = figures["fd_teacher"], figures["fd_floor"]
    if real is None and apart > 10 * floor:
        yield (
            f"Unlike its teacher: Fréchet distance {apart:.3g}, {apart / floor:.0f} times that of "
            "the teacher from other noise."
        )


def _praise(figures: Figures) -> str:
    apart, floor = figures["fd_teacher"], figures["fd_floor"]
    sentence = f"No fault found: Fréchet distance to the teacher {apart:.3g}, floor {floor:.3g}"
    if figures["fd_real"] is not None:
        sentence += (
            f"; to real images {figures['fd_real']:.3g}, the teacher's "
            f"{figures['teacher_fd_real']:.3g}"
        )
    return f"{sentence}."


def _speed(figures: Figures) -> str:
    costs = figures["metrics"]["speed"]
    ours, teachers = (costs[name]["nfe"] for name in ("student", "teacher"))
    return (
        f"{figures['speedup']:.0f} times as fast as its teacher for one image "
        f"(network calls: {ours} against {teachers})."
    )
