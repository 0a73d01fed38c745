"""Text as a condition: a label is the number of a prompt."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_KEPT = 1024
"""Prompts whose embeddings stay in memory."""


class Embedding(NamedTuple):
    """What a UNet gets of prompts.

    Attributes:
        tokens: (B, tokens, width).
        pooled: Of the whole prompt, (B, width), or None for Stable Diffusion 1 and 2.
    """

    tokens: Tensor
    pooled: Tensor | None


class Encoder(NamedTuple):
    """A CLIP text encoder with its tokenizer."""

    tokenizer: CLIPTokenizer
    network: Any


class Text:
    """A list of prompts and what text encoders make of them, encoded where it is used.

    All copies of a network share one: it is frozen, and no part of their weights.

    Args:
        prompts: A label is a position in this list.
        negative: Stands in where there is no label: "" for no condition at all.
        encoders: Of the model: one, or the two of SDXL.
        blank: Whether no condition is zeros instead of an empty prompt.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        negative: str,
        encoders: Sequence[Encoder],
        blank: bool = False,
    ) -> None:
        self.prompts, self.negative, self.encoders, self.blank = prompts, negative, encoders, blank
        for encoder in encoders:
            encoder.network.eval().requires_grad_(False)
        self._known: OrderedDict[int, Embedding] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Text":
        return self

    def embed(self, labels: Tensor | None, like: Tensor) -> Embedding:
        """Of as many prompts as `like` has rows, on its device.

        Args:
            labels: Numbers of prompts, (B,) int64, or None for the negative prompt.
            like: (B, ...).
        """
        if like.device.type == "meta":
            return self._placeholder(len(like))
        numbers = [-1] * len(like) if labels is None else labels.tolist()
        if unknown := sorted(set(numbers) - self._known.keys()):
            tokens, pooled = self._encode(unknown, like.device)
            for row, number in enumerate(unknown):
                self._known[number] = Embedding(
                    tokens[row], None if pooled is None else pooled[row]
                )
        rows = []
        for number in numbers:
            self._known.move_to_end(number)
            rows.append(self._known[number])
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        pooled_rows = [row.pooled for row in rows if row.pooled is not None]
        return Embedding(
            torch.stack([row.tokens for row in rows]).to(like.device),
            torch.stack(pooled_rows).to(like.device) if pooled_rows else None,
        )

    @torch.no_grad()
    def _encode(self, numbers: list[int], device: torch.device) -> Embedding:
        texts = [self.prompts[number] if number >= 0 else self.negative for number in numbers]
        with torch.autocast(device.type, enabled=False):
            outputs = [_outputs(encoder, texts, device) for encoder in self.encoders]
        if len(outputs) == 1:
            return Embedding(outputs[0][0], None)
        # SDXL takes the last layer but one of both, and the second one's projection.
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled: Tensor = outputs[-1][0]
        if self.blank and not self.negative:
            empty = torch.tensor([number < 0 for number in numbers], device=device)
            tokens[empty], pooled[empty] = 0.0, 0.0
        return Embedding(tokens, pooled)

    def _placeholder(self, count: int) -> Embedding:
        length = self.encoders[0].tokenizer.model_max_length
        width = sum(encoder.network.config.hidden_size for encoder in self.encoders)
        tokens = torch.empty(count, length, width, device="meta")
        if len(self.encoders) == 1:
            return Embedding(tokens, None)
        projection = self.encoders[-1].network.config.projection_dim
        return Embedding(tokens, torch.empty(count, projection, device="meta"))


def _outputs(encoder: Encoder, texts: list[str], device: torch.device) -> Any:
    tokens = encoder.tokenizer(
        texts,
        padding="max_length",
        max_length=encoder.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).to(device)
    network = encoder.network.to(device)
    masks = getattr(network.config, "use_attention_mask", False)
    return network(
        tokens.input_ids,
        attention_mask=tokens.attention_mask if masks else None,
        output_hidden_states=True,
    )


def load_text(folder: Path, prompts: str | None, negative: str, index: dict[str, Any]) -> Text:
    """The text side of a diffusers folder.

    Args:
        folder: With `tokenizer/` and `text_encoder/`, and `_2` of both for SDXL.
        prompts: File of one JSON string a line; None for no prompts.
        negative: The negative prompt.
        index: Content of its `model_index.json`.
    """
    texts = []
    if prompts is not None:
        texts = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    encoders = [_encoder(folder, "", CLIPTextModel)]
    if "text_encoder_2" in index:
        encoders.append(_encoder(folder, "_2", CLIPTextModelWithProjection))
    return Text(texts, negative, encoders, bool(index.get("force_zeros_for_empty_prompt", False)))


def _encoder(folder: Path, suffix: str, kind: Any) -> Encoder:
    network = kind.from_pretrained(
        folder / f"text_encoder{suffix}", use_safetensors=True, dtype=torch.float32
    )
    return Encoder(CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}"), network)
