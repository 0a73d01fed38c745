"""The main figures of an evaluation as a small table."""

from collections.abc import Mapping
from typing import Any

_TABLE = (
    ("Fréchet to teacher", "fd_teacher", None, "fd_floor", "n_teacher"),
    ("Fréchet, pixels", "pixel_fd", None, "pixel_fd_floor", "n_teacher"),
    ("accuracy", "accuracy", "teacher_accuracy", None, "n_teacher"),
    ("Fréchet to real images", "fd_real", "teacher_fd_real", None, "n_real"),
    ("real, half to half", None, None, "real_floor", "n_real_floor"),
    ("precision", "precision", "teacher_precision", None, "n_real_compared"),
    ("recall", "recall", "teacher_recall", None, "n_real_compared"),
    ("ms per image, batch 1", "latency_ms", "teacher_latency_ms", None, None),
)
"""Title, and the figures of student, teacher, floor, and n."""


def summary(figures: Mapping[str, float | int | None]) -> str:
    """Lines of student, teacher, floor and n; figures that none of them has are left out."""
    lines = [" " * 24 + "".join(f"{word:>10}" for word in ("student", "teacher", "floor", "n"))]
    for title, *names in _TABLE:
        values = [figures[name] if name else None for name in names]
        if any(value is not None for value in values[:3]):
            lines.append(f"{title:24}" + "".join(map(_cell, values)).rstrip())
    return "\n".join(lines)


def caption_summary(figures: Mapping[str, Any]) -> str:
    """Lines of the accuracies and diversity by captions, and of the VAE's reconstructions."""
    rows = {name: values for name, values in figures.items() if isinstance(values, Mapping)}
    usual = ("student", "teacher", "reconstruction", "real")
    who = dict.fromkeys([*usual, *(each for values in rows.values() for each in values)])
    lines = [" " * 24 + "".join(f"{word:>16}" for word in who)]
    for name, values in rows.items():
        cells = "".join(f"{values[each]:>16.3f}" if each in values else " " * 16 for each in who)
        lines.append(f"{name.replace('_', ' '):24}{cells}")
    psnr, pca = figures["vae_psnr_held_out"], figures["pca_psnr_held_out"]
    return "\n".join([*lines, f"VAE, held out: {psnr:.1f} dB; a linear map: {pca:.1f} dB"])


def _cell(value: float | int | None) -> str:
    if value is None:
        return " " * 10
    return f"{value:>10}" if isinstance(value, int) else f"{round(value, 3) + 0:>10.3f}"
