"""Training from nothing: one task after the other, by any number of workers, on after a break."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.models.ema import Average, ema_of
from pipeline.utils import scratch
from pipeline.utils.progress import Progress

Draw = Callable[[int], tuple[Tensor, ...]]
"""The whole batch of a step, the same on every worker."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a task is learnt.

    Attributes:
        steps: Optimiser steps.
        lr: Highest learning rate of AdamW, after `ramp`.
        ema: Decay of the average of the weights, per step.
    """

    steps: int
    lr: float
    ema: float


def ramp(step: int, steps: int, warmup: int = 100) -> float:
    """Factor of the learning rate: linear warm-up, then a half cosine to zero."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Learner:
    """One worker of a group, or the only one; on a GPU networks compute in bf16.

    Args:
        checkpoints: Folder of the states of all tasks, the same for all workers.
        every: Steps between checkpoints.

    Attributes:
        device: Where the networks are.
        is_first: Whether this worker writes and tells for all.
    """

    def __init__(self, checkpoints: Path, every: int) -> None:
        on_gpu = torch.cuda.is_available()
        self._accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no", cpu=not on_gpu)
        self._folder, self._every = checkpoints, every
        self.device = self._accelerator.device
        self.is_first = self._accelerator.is_main_process

    def learn(self, task: nn.Module, draw: Draw, schedule: Schedule, label: str) -> Average:
        """Learn a task to the end, from its newest state; returns the average of its weights.

        Every worker takes its share of each batch, and all take the same steps: their number
        changes the sums' last bits alone.

        Args:
            task: Gives the loss of a batch; trained in place.
            draw: Step -> the batch.
            schedule: How long and how fast.
            label: Of the progress, and of the file of the state.
        """
        file, steps = self._folder / f"{label}.pt", schedule.steps
        task = task.to(self.device).train()
        ema = ema_of(task, schedule.ema)
        optimizer = torch.optim.AdamW(
            task.parameters(), lr=schedule.lr, betas=(0.9, 0.99), fused=True
        )
        start = _resume(file, task, ema, optimizer)
        if start == steps:
            return ema
        together, prepared = self._accelerator.prepare(task, optimizer)
        rank, workers = self._accelerator.process_index, self._accelerator.num_processes
        with Progress(steps, label, "steps", start, shown=self.is_first) as bar:
            for step in range(start, steps):
                for group in optimizer.param_groups:
                    group["lr"] = schedule.lr * ramp(step, steps)
                loss = together(*(each[rank::workers].to(self.device) for each in draw(step)))
                prepared.zero_grad()
                self._accelerator.backward(loss)
                prepared.step()
                ema.update_parameters(task)
                bar.update(1, loss=loss.item())
                done = step + 1
                if self.is_first and (done % self._every == 0 or done == steps):
                    _save(file, done, task, ema, optimizer)
        self.wait()
        return ema

    def wait(self) -> None:
        """Until all workers are here."""
        self._accelerator.wait_for_everyone()


def _save(
    file: Path, step: int, task: nn.Module, ema: Average, optimizer: torch.optim.Optimizer
) -> None:
    state = {"step": step, "task": task.state_dict(), "ema": ema.state_dict()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with scratch.file_beside(file) as fresh:
        torch.save({**state, "optimizer": optimizer.state_dict()}, fresh)
        fresh.flush()
        Path(fresh.name).replace(file)


def _resume(file: Path, task: nn.Module, ema: Average, optimizer: torch.optim.Optimizer) -> int:
    """Take up the newest state; returns its step, 0 without one."""
    if not file.is_file():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    task.load_state_dict(state["task"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
