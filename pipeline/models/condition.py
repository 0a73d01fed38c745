"""From labels to conditions: what a label stands for, and what no condition is.

A label is a class or the number of a prompt. It ends here: networks get a `Condition`, tensors
alone.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import ClassVar, overload

import numpy as np
import torch
from torch import Tensor

from pipeline.data.conditions import ConditionReader
from pipeline.data.prompt_images import image_file
from pipeline.diffusion.condition import Condition, Conditioner
from pipeline.utils.errors import UserError

_LINE_FEED = 10
_BLOCK = 2**24
"""Bytes of a file of prompts that are looked through at once."""


class ClassLabels(Conditioner):
    """The labels themselves, as `labels`.

    Args:
        classes: Number of classes; None for a network without conditions.
        null_label: What stands for no condition; None if the network knows none.
    """

    def __init__(self, classes: int | None, null_label: int | None = None) -> None:
        self.classes, self.null_label = classes, null_label

    def __call__(
        self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"
    ) -> Condition:
        if self.classes is None:
            return Condition()
        if labels is None:
            return self.null(count, device)
        return Condition({"labels": labels.to(device)})

    def null(self, count: int, device: torch.device | str = "cpu") -> Condition:
        if self.classes is None:
            raise UserError("pairs.guidance: the teacher has no labels, which it needs; use 1")
        if self.null_label is None:
            raise UserError(
                "this teacher has no unconditional branch (its UNet knows class labels alone): "
                "set pairs.guidance to 1"
            )
        return Condition({"labels": torch.full((count,), self.null_label, device=device)})


Encode = Callable[[list[str], bool, torch.device], Condition]
"""(prompts, whether they are the negative one, device) -> their embeddings on that device."""
_NOT_GUIDABLE = (
    "this teacher has no unconditional branch (guidance is an input of it, see "
    "teacher.embedded_guidance, or it was distilled with it): set pairs.guidance to 1"
)


class Prompts(Conditioner):
    """Embeddings of prompts, encoded where they are used and kept for the next time.

    Each prompt is encoded by itself, to a row of its own length: others beside it would change its
    last bits, and differ after a restart and in a stored set. Threads encode one prompt at a time.

    Args:
        prompts: A label is a position in this list.
        negative: Stands for no condition: "" for no text at all.
        encode: The model's own way from prompts to embeddings.
        guidable: Whether the network knows no condition; else it is told guidance, or made with it.

    Attributes:
        kept: Prompts whose embeddings stay in memory.
    """

    kept: ClassVar[int] = 1024
    prompts: Sequence[str]

    def __init__(
        self,
        prompts: Sequence[str],
        negative: str,
        encode: Encode,
        guidable: bool = True,
    ) -> None:
        self.prompts, self.negative, self.encode = prompts, negative, encode
        self.classes, self.guidable = len(prompts) or None, guidable
        self._more: list[str] = []
        self._known: OrderedDict[int, Condition] = OrderedDict()
        self._lock = Lock()

    def label(self, prompt: str) -> int:
        """A number for any prompt, beside those of the list."""
        if prompt not in self._more:
            self._more.append(prompt)
        return len(self.prompts) + self._more.index(prompt)

    def __call__(
        self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"
    ) -> Condition:
        if labels is None:
            return self.null(count, device)
        if torch.device(device).type == "meta":  # nothing is computed there: shapes alone
            some = 0 if self.prompts else -1
            return self._embed([some] * count, torch.device(device))
        return self._embed(labels.tolist(), torch.device(device))

    def null(self, count: int, device: torch.device | str = "cpu") -> Condition:
        if not self.guidable:
            raise UserError(_NOT_GUIDABLE)
        return self._embed([-1] * count, torch.device(device))

    def _embed(self, numbers: list[int], device: torch.device) -> Condition:
        if device.type == "meta":
            return self._embed(numbers, torch.device("cpu")).to(device)
        rows = [self._row_kept(number, device) for number in numbers]
        with self._lock:
            while len(self._known) > self.kept:
                self._known.popitem(last=False)
        return Condition.cat(rows)

    def _row_kept(self, number: int, device: torch.device) -> Condition:
        with self._lock:
            if number not in self._known:
                self._known[number] = self.row(number, device)
            self._known.move_to_end(number)
            return self._known[number].to(device)

    @torch.no_grad()
    def row(self, number: int, device: torch.device) -> Condition:
        """The condition of a prompt by its number, or of the negative one, -1: of one sample."""
        with torch.autocast(device.type, enabled=False):
            return self._encoded(
                self.negative if number < 0 else self._prompt(number), number, device
            )

    def _encoded(self, text: str, number: int, device: torch.device) -> Condition:
        return self.encode([text], number < 0, device)

    def _prompt(self, number: int) -> str:
        known = len(self.prompts)
        return self.prompts[number] if number < known else self._more[number - known]


class Stored(Conditioner):
    """Conditions of a set that `jobs/embed.py` made: no text encoder is needed.

    Args:
        prompts: What the rows of the set stand for, in their order.
        reader: Of the set.
    """

    prompts: Sequence[str]

    def __init__(self, prompts: Sequence[str], reader: ConditionReader) -> None:
        self.prompts, self.classes, self._reader = prompts, len(prompts), reader
        self._null: Condition | None = None

    def __call__(
        self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"
    ) -> Condition:
        if labels is None:
            return self.null(count, device)
        at_meta = torch.device(device).type == "meta"  # shapes alone
        numbers = [0] * count if at_meta else labels.tolist()
        return Condition.cat(self._reader.rows(numbers)).to(device)

    def null(self, count: int, device: torch.device | str = "cpu") -> Condition:
        if self._reader.null is None:
            raise UserError(_NOT_GUIDABLE)
        if self._null is None:
            (self._null,) = self._reader.rows([self._reader.null])
        return Condition.cat([self._null.to(device)] * count)


class PromptFile(Sequence[str]):
    """The prompts in a file of one JSON string a line, each read when it is asked for.

    Where they have images beside them, a line is a list: the prompt, and the names of its images.
    A million of them take 8 MB here, not 100.

    Args:
        file: Its lines end at LF; it does not change.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        empty = file.stat().st_size == 0  # which cannot be mapped
        self._bytes = np.empty(0, np.uint8) if empty else np.memmap(file, np.uint8, "r")
        starts = range(0, len(self._bytes), _BLOCK)
        found = [
            start + np.flatnonzero(self._bytes[start : start + _BLOCK] == _LINE_FEED)
            for start in starts
        ]
        self._ends = np.concatenate([np.empty(0, np.int64), *found])
        if not empty and self._bytes[-1] != _LINE_FEED:
            self._ends = np.append(self._ends, len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[each] for each in range(len(self))[at]]
        line = self._line(at)
        return line if isinstance(line, str) else line[0]

    def images(self, at: int) -> list[Path]:
        """The files of the images beside a prompt."""
        line = self._line(at)
        return [] if isinstance(line, str) else [image_file(self._file, each) for each in line[1:]]

    def _line(self, at: int) -> str | list[str]:
        at = range(len(self))[at]
        start = self._ends[at - 1] + 1 if at else 0
        line: str | list[str] = json.loads(self._bytes[start : self._ends[at]].tobytes())
        return line

    def __reduce__(self) -> tuple[type["PromptFile"], tuple[Path]]:
        return PromptFile, (self._file,)


def read_prompts(file: str | None) -> Sequence[str]:
    """The prompts in a file, as `PromptFile`; none without a file."""
    return [] if file is None else PromptFile(Path(file))


def images_of(prompts: Sequence[str], at: int) -> list[Path]:
    """The files of the images beside a prompt; a list of prompts alone has none."""
    return prompts.images(at) if isinstance(prompts, PromptFile) else []
