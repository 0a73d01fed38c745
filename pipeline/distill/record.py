"""What a run shows and leaves to look at: progress, metrics.jsonl, TensorBoard, sample grids."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from torch import Tensor

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.files import write_file
from pipeline.pictures import save_grid
from pipeline.progress import progress

_SHOWN = ("regression", "matching_gradient", "critic", "sample_std", "student_norm", "skipped")


class Recorder:
    """Shows and writes the metrics and pictures of one run; made on the first worker alone.

    Args:
        config: Of the run.
        output: The folder to write to.
        start: Steps done so far: later lines of an earlier attempt are dropped.

    Raises:
        UserError: If the folder cannot be written, or `distill.wandb` is set without its package.
    """

    def __init__(self, config: Config, output: Path, start: int):
        self.output = output
        self.metrics = output / "metrics.jsonl"
        try:
            (output / "samples").mkdir(parents=True, exist_ok=True)
            self._drop_after(start)
        except OSError as error:
            raise UserError(f"distill.output: cannot write {output}: {error}") from error
        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1)
        self.wandb = _WeightsAndBiases(config, output) if config.distill.wandb else None
        self.done = start
        self.bar = progress(config.distill.steps, "distill", "steps", start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and one point on each curve."""
        with self.metrics.open("a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.scalars(step, values)
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
        if self.wandb is not None:
            self.wandb.picture(step, pixels)

    def __enter__(self) -> "Recorder":
        """Show the beginning."""
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Show the end and flush the curves."""
        self.bar.__exit__(*error)
        self.board.close()
        if self.wandb is not None:
            self.wandb.close(failed=error[0] is not None)

    def _drop_after(self, start: int) -> None:
        if not self.metrics.exists():
            return
        kept = [
            line
            for line in self.metrics.read_text().splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= start
        ]
        write_file(self.metrics, "".join(kept).encode())


class _WeightsAndBiases:
    """One attempt's curves and pictures in Weights & Biases: offline, unless WANDB_MODE is set.

    The attempts of a run are a group there.
    """

    def __init__(self, config: Config, folder: Path):
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
            project=config.distill.wandb,
            group=config.distill.output,
            dir=folder,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, pixels: np.ndarray) -> None:
        self._run.log({"samples": self._image(pixels)}, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
