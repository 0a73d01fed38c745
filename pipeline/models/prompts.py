"""Text as a condition: a label is the number of a prompt."""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_KEPT = 1024
"""Prompts whose embeddings stay in memory."""


class Embedding(NamedTuple):
    """What a network gets of prompts; None for what its kind does not know.

    Attributes:
        tokens: (B, tokens, width).
        pooled: Of the whole prompt, (B, width).
        mask: Which tokens count, (B, tokens).
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


Encode = Callable[[list[str], bool, torch.device], Embedding]
"""(prompts, whether they are the negative one, device) -> their embeddings on that device."""


class PromptEncoder:
    """A list of prompts and what text encoders make of them, encoded where it is used.

    All copies of a network share one: it is frozen, and no part of their weights.

    Args:
        prompts: A label is a position in this list.
        negative: Stands in where there is no label: "" for no condition at all.
        encode: The model's own way from prompts to embeddings.
    """

    def __init__(self, prompts: Sequence[str], negative: str, encode: Encode) -> None:
        self.prompts, self.negative, self.encode = prompts, negative, encode
        self._more: list[str] = []
        self._known: OrderedDict[int, Embedding] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "PromptEncoder":
        return self

    def label(self, prompt: str) -> int:
        """A number for any prompt, beside those of the list."""
        if prompt not in self._more:
            self._more.append(prompt)
        return len(self.prompts) + self._more.index(prompt)

    def embed(self, labels: Tensor | None, like: Tensor) -> Embedding:
        """Of as many prompts as `like` has rows, on its device.

        Args:
            labels: Numbers of prompts, (B,) int64, or None for the negative prompt.
            like: (B, ...).
        """
        if like.device.type == "meta":
            found = self.embed(None, torch.empty(len(like)))
            return _each(lambda part: torch.empty_like(part, device="meta"), found)
        numbers = [-1] * len(like) if labels is None else labels.tolist()
        for negative in (False, True):
            unknown = {n for n in numbers if n not in self._known and (n < 0) == negative}
            if unknown:
                self._encode(sorted(unknown), negative, like.device)
        rows = []
        for number in numbers:
            self._known.move_to_end(number)
            rows.append(self._known[number])
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        tokens = torch.stack([row.tokens.to(like.device) for row in rows])
        pooled = [row.pooled.to(like.device) for row in rows if row.pooled is not None]
        masks = [row.mask.to(like.device) for row in rows if row.mask is not None]
        return Embedding(
            tokens, torch.stack(pooled) if pooled else None, torch.stack(masks) if masks else None
        )

    @torch.no_grad()
    def _encode(self, numbers: list[int], negative: bool, device: torch.device) -> None:
        texts = [self.negative] if negative else [self._prompt(number) for number in numbers]
        with torch.autocast(device.type, enabled=False):
            encoded = self.encode(texts, negative, device)
        for row, number in enumerate(numbers):
            self._known[number] = _each(itemgetter(row), encoded)

    def _prompt(self, number: int) -> str:
        known = len(self.prompts)
        return self.prompts[number] if number < known else self._more[number - known]


def _each(action: Callable[[Tensor], Tensor], embedding: Embedding) -> Embedding:
    tokens, pooled, mask = embedding
    return Embedding(
        action(tokens),
        None if pooled is None else action(pooled),
        None if mask is None else action(mask),
    )


def read_prompts(file: str | None) -> list[str]:
    """The prompts in a file of one JSON string a line; none without a file."""
    if file is None:
        return []
    return [json.loads(line) for line in Path(file).read_text().splitlines()]
