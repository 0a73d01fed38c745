"""What a run shows and leaves to look at: progress, metrics.jsonl, TensorBoard, sample grids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from torch import Tensor

from pipeline.errors import UserError
from pipeline.files import write_file
from pipeline.pictures import save_grid
from pipeline.progress import progress

_SHOWN = ("regression", "matching_gradient", "critic", "sample_std", "student_norm", "skipped")


class Recorder:
    """Shows and writes the metrics and pictures of one run; made on the first worker alone.

    Args:
        output: The run's folder.
        start: Steps done so far: later lines of an earlier attempt are dropped.
        steps: Steps at the end.

    Raises:
        UserError: If the folder cannot be written.
    """

    def __init__(self, output: Path, start: int, steps: int):
        self.output = output
        self.metrics = output / "metrics.jsonl"
        try:
            (output / "samples").mkdir(parents=True, exist_ok=True)
            self._drop_after(start)
        except OSError as error:
            raise UserError(f"distill.output: cannot write {output}: {error}") from error
        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1)
        self.done = start
        self.bar = progress(steps, "distill", "steps", start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and one point on each curve."""
        with self.metrics.open("a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        shown = {name: each for name, each in values.items() if name in _SHOWN}
        self.bar.update(step - self.done, **shown)
        self.done = step

    def grid(self, step: int, rows: dict[str, Tensor]) -> None:
        """A picture of captioned rows of images, (N, C, H, W) in [-1, 1]."""
        file = self.output / "samples" / f"step-{step:07d}.png"
        save_grid(rows, file)
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self.board.add_image("samples", pixels, step, dataformats="HWC")

    def __enter__(self) -> "Recorder":
        """Show the beginning."""
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Show the end and flush the curves."""
        self.bar.__exit__(*error)
        self.board.close()

    def _drop_after(self, start: int) -> None:
        if not self.metrics.exists():
            return
        kept = [
            line
            for line in self.metrics.read_text().splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= start
        ]
        write_file(self.metrics, "".join(kept).encode())
