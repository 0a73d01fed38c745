"""What a run shows and leaves to look at: progress, metrics.jsonl, TensorBoard, sample grids."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic_core import from_json
from torch import Tensor

from pipeline.config import DistillConfig, settings_yaml
from pipeline.runs import events
from pipeline.runs.board import FILE, Board, tag
from pipeline.runs.checkpoint_store import CheckpointStore
from pipeline.runs.run_folder import RunFolder
from pipeline.utils.errors import UserError
from pipeline.utils.files import write_file
from pipeline.utils.image_grid import save_grid
from pipeline.utils.progress import Progress

log = logging.getLogger(__name__)

METRICS, BOARD = "metrics.jsonl", f"tensorboard/{FILE}"
"""Files of a run that go on after a restart, in its folder."""
SCORE = tag("fd_teacher")
"""Curve of the scores of checkpoints."""
_SHOWN = ("regression", "matching_gradient", "critic", "sample_std", "student_norm", "skipped")


class MetricsLog:
    """Shows and writes the metrics and pictures of one run; made on the first worker alone.

    Args:
        distill: Of the run.
        settings: All of them, to be shown.
        output: The folder to write to.
        start: Steps done so far: later lines of an earlier attempt are dropped.
        workers: Of the group.
        device: Of the first worker.

    Attributes:
        lines: Figures of all steps that were logged, those of earlier attempts too, in order.
        found: Detectors that found the run failing, since it last went back.

    Raises:
        UserError: If the folder cannot be written, or `distill.wandb` is set without its package.
    """

    def __init__(
        self,
        distill: DistillConfig,
        settings: dict[str, Any],
        output: Path,
        start: int,
        workers: int,
        device: torch.device,
    ):
        self.output, self.steps = output, distill.steps
        self.metrics = output / METRICS
        with self._writing():
            (output / "samples").mkdir(parents=True, exist_ok=True)
            (output / "tensorboard").mkdir(exist_ok=True)
            self.lines, lost = self._drop_after(start)
        self.found = set[str]()
        for event in events.noted(output):
            self.found = set() if event.kind == "roll_back" else self.found | {event.detector or ""}
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        began, machine = time.time(), events.machine(gpu)
        reached, reached_at = lost.get("step"), lost.get("time")
        event = events.Event("start", began, start, workers, reached, reached_at, machine=machine)
        events.note(output, event)
        with self._writing():
            self.board = Board(output / "tensorboard", start + 1)
            self._scored = self.board.steps(SCORE)
            self.board.text(start, "config", f"```yaml\n{settings_yaml.dump(settings)}```")
        self.wandb = None
        if distill.wandb:
            self.wandb = _WeightsAndBiases(distill.wandb, distill.output, settings, output)
        self.done = start
        self._went_back: events.Event | None = None
        self.bar = Progress(distill.steps, "distill", "steps", start)

    def count(self, step: int) -> None:
        """So many steps are done; shows it, between the lines too."""
        self.bar.update(step - self.bar.done)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and one point on each curve."""
        line = {"step": step, "time": round(time.time(), 2), **values}
        tagged = {tag(name): value for name, value in values.items()}
        self.lines.append(line)
        with self._writing():
            with self.metrics.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            self.board.scalars(step, tagged)
        if self.wandb is not None:
            self.wandb.scalars(step, tagged)
        shown = {name: each for name, each in values.items() if name in _SHOWN}
        self.bar.update(step - self.bar.done, **shown)
        self.done = step

    def scores(self, checkpoints: CheckpointStore) -> None:
        """Points of the scores of checkpoints, those that have none yet."""
        with self._writing():
            put_scores(self.board, checkpoints, self._scored)

    def grid(self, step: int, rows: dict[str, Tensor]) -> None:
        """A picture of captioned rows of images, (N, C, H, W) in [-1, 1]."""
        self._picture(step, "step", "samples/grid", rows)

    def prompts(self, step: int, rows: dict[str, Tensor]) -> None:
        """The same of prompts and their images."""
        self._picture(step, "prompts", "samples/prompts", rows)

    def _picture(self, step: int, name: str, tag: str, rows: dict[str, Tensor]) -> None:
        file = self.output / "samples" / f"{name}-{step:07d}.png"
        save_grid(rows, file)
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        with self._writing():
            self.board.image(step, tag, pixels)
        if self.wandb is not None:
            self.wandb.picture(step, tag, pixels, " | ".join(rows))

    def note(self, detector: str, step: int, text: str) -> None:
        """Tell of a failure, once for each detector."""
        if detector in self.found:
            return
        self.found.add(detector)
        log.warning("step %d: %s", step, text)
        event = events.now("finding", step)
        events.note(self.output, replace(event, detector=detector, text=text))

    def went_back(self, step: int) -> None:
        """Tell, in place of how it ends, that the run goes on from the checkpoint of a step."""
        self._went_back = replace(events.now("roll_back", step), reached=self.done)
        log.warning(
            "step %d: going back to %s, once, with a lower distill.student.lr",
            self.done,
            f"the checkpoint of step {step}" if step else "the beginning",
        )

    def __enter__(self) -> "MetricsLog":
        """Show the beginning."""
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Show the end and flush the curves."""
        self.bar.__exit__(*error)
        if error[0] is not None:
            event = events.now("failed", self.done, f"{error[0].__name__}: {error[1]}")
        else:
            usual = events.now("end" if self.done == self.steps else "left", self.done)
            event = self._went_back or usual
        try:
            with self._writing():
                self.board.close()
                events.note(self.output, event)
        except UserError as own:
            if error[0] is None:
                raise
            log.warning("%s", own)  # what ended the run is told by itself
        if self.wandb is not None:
            self.wandb.close(failed=error[0] is not None)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises UserError where the block cannot write."""
        try:
            yield
        except OSError as error:
            where, reason = error.filename or self.output, error.strerror or error
            raise UserError(
                f"distill.output: cannot write {where}: {reason}; free space or choose another "
                "folder, then run the same command again"
            ) from error

    def _drop_after(self, start: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Drop the lines of steps that will be done again.

        Returns:
            The others, and the last that is dropped, or nothing.
        """
        if not self.metrics.exists():
            return [], {}
        lines = self.metrics.read_text(errors="replace").split("\n")[:-1]  # the last may be torn
        found = {number: each for number, line in enumerate(lines) if (each := _parsed(line))}
        if broken := len(lines) - len(found):
            log.warning("%s: %d damaged lines are dropped", self.metrics, broken)
        kept = [number for number, each in found.items() if each["step"] <= start]
        write_file(self.metrics, "".join(f"{lines[number]}\n" for number in kept).encode())
        lost = found[max(found)] if len(found) > len(kept) else {}
        return [found[number] for number in kept], lost


def _parsed(line: str) -> dict[str, Any] | None:
    """The figures of a step; None of a line that has none."""
    try:
        found = from_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


def put_scores(board: Board, checkpoints: CheckpointStore, known: set[int]) -> None:
    """Put the scores of checkpoints on TensorBoard's curves, but those of known steps."""
    for step, score in checkpoints.scores_beyond(known).items():
        board.scalars(step, {SCORE: score.fd_teacher})
        if score.floor is not None:
            board.scalars(step, {tag("fd_floor"): score.floor})
        known.add(step)


def board_scores(output: RunFolder, checkpoints: CheckpointStore) -> None:
    """The same where no worker writes any more; what a store refuses, later."""
    output.download(BOARD)
    (folder := (output.folder / BOARD).parent).mkdir(parents=True, exist_ok=True)
    board = Board(folder)
    put_scores(board, checkpoints, board.steps(SCORE))
    board.close()
    output.try_upload()


class _WeightsAndBiases:
    """One attempt's curves and pictures in Weights & Biases: offline, unless WANDB_MODE is set.

    The attempts of a run are a group there.
    """

    def __init__(self, project: str, group: str, settings: dict[str, Any], folder: Path):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "distill.wandb needs the package wandb on every node: pip install wandb, "
                "or leave the setting out"
            ) from error
        self._image = wandb.Image
        os.environ.setdefault("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=project,
            group=group,
            dir=folder,
            config=settings,
            settings=wandb.Settings(silent=True),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, tag: str, pixels: np.ndarray, caption: str) -> None:
        self._run.log({tag: self._image(pixels, caption=caption)}, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
