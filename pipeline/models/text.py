"""Text as a condition: a label is the number of a prompt."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

_KEPT = 1024
"""Embeddings that stay in memory."""


class Text:
    """A list of prompts and what a CLIP text encoder makes of them, encoded where it is used.

    All copies of a network share one: it is frozen, and no part of their weights.

    Args:
        prompts: A label is a position in this list.
        negative: Stands in where there is no label: "" for no condition at all.
        tokenizer, encoder: Of the model.
    """

    def __init__(
        self, prompts: Sequence[str], negative: str, tokenizer: CLIPTokenizer, encoder: Any
    ) -> None:
        self.prompts, self.negative = prompts, negative
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self._known: OrderedDict[int, Tensor] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Text":
        return self

    def embed(self, labels: Tensor | None, like: Tensor) -> Tensor:
        """Embeddings of as many prompts as `like` has rows, (B, tokens, width), on its device.

        Args:
            labels: Numbers of prompts, (B,) int64, or None for the negative prompt.
            like: (B, ...).
        """
        if like.device.type == "meta":
            size = len(like), self.tokenizer.model_max_length, self.encoder.config.hidden_size
            return torch.empty(size, device=like.device)
        numbers = [-1] * len(like) if labels is None else labels.tolist()
        unknown = sorted(set(numbers) - self._known.keys())
        for number, embedding in zip(unknown, self._encode(unknown, like.device), strict=True):
            self._known[number] = embedding
        rows = []
        for number in numbers:
            self._known.move_to_end(number)
            rows.append(self._known[number].to(like.device))
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return torch.stack(rows)

    @torch.no_grad()
    def _encode(self, numbers: list[int], device: torch.device) -> Tensor:
        texts = [self.prompts[number] if number >= 0 else self.negative for number in numbers]
        if not texts:
            return torch.empty(0)
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(device)
        mask = tokens.attention_mask if self._masks else None
        with torch.autocast(device.type, enabled=False):
            return self.encoder.to(device)(tokens.input_ids, attention_mask=mask)[0]

    @property
    def _masks(self) -> bool:
        return bool(getattr(self.encoder.config, "use_attention_mask", False))


def load_text(folder: Path, prompts: str | None, negative: str) -> Text:
    """The text side of a diffusers folder.

    Args:
        folder: With `tokenizer/` and `text_encoder/`.
        prompts: File of one JSON string a line; None for no prompts.
        negative: The negative prompt.
    """
    texts = []
    if prompts is not None:
        texts = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(
        folder / "text_encoder", use_safetensors=True, dtype=torch.float32
    )
    return Text(texts, negative, tokenizer, encoder)
