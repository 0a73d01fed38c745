"""What ComfyUI knows of a family: the names of its weights, its text encoders and its nodes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

PROMPT = "a photo of a cat"

Link = tuple[str, int]
"""A node, by its name here, and which of its outputs."""
Node = tuple[str, dict[str, Any]]
"""Class of a node, and its inputs; one that is a `Link` comes from another node."""
Depths = tuple[tuple[int, ...], int, tuple[int, ...]]
"""Transformers after each residual block of a UNet: down, in the middle (-1 without any, -2 where
there is no middle), up."""


PHOTO: Mapping[str, Node] = {"photo": ("LoadImage", {"image": "photo.png"})}
"""Reads an image that a model starts from."""


@dataclass(frozen=True, kw_only=True)
class ComfyUI:
    """How ComfyUI, with its own nodes alone, makes images of a family's models.

    Facts of github.com/Comfy-Org/ComfyUI, in 2026: `comfy/lora.py`, `comfy/utils.py`,
    `comfy/model_detection.py`, `comfy/latent_formats.py`, `comfy/ldm/`, `nodes.py`,
    `comfy_extras/`.

    Attributes:
        type: What its loaders call the text encoders.
        encoders: Their files, published for ComfyUI; (): the student's own are written.
        vae: File of the VAE, published for ComfyUI; None: it takes the student's own.
        checkpoint: Whether the VAE is that of the teacher's own checkpoint, in which alone it is
            published.
        vision: File of what sees images, published for ComfyUI; None: nothing does.
        scaling: Scale and shift of latents that it takes such a VAE to have; FLUX.1's.
        source: Repositories on the Hub that have these files.
        latents: Node of latents to start from; its inputs of size are added.
        prompt: Node of the prompt; its input `clip` is added.
        more: Further nodes by names; "vae", "prompt" and "latents" are the others' names.
        start: Of the latents.
        told: Of the prompt, and of all else that the network is told.
        padding: Least padding and least length of T5's tokens, as the pipeline has them; None:
            those that it has anyway.
        fps: Frames of a second of its videos; None: it makes images.
        names: diffusers' names of modules or weights, "*" for a number -> ComfyUI's. The first one
            in a name that fits counts, the rest of the name stays. Modules of one name are its
            rows, one after another in this order. {}: ComfyUI takes diffusers' names, also of
            adapters behind "transformer.".
        swapped: Modules, by diffusers' names, whose halves ComfyUI has the other way round.
        kohya: Whether adapters have to have the names that kohya's trainer gives them.
        dtype: Of saved weights.
        depths: Of the UNets that it knows.
    """

    type: str
    encoders: tuple[str, ...] = ()
    vae: str | None = None
    checkpoint: bool = False
    vision: str | None = None
    scaling: tuple[float, float] = (0.3611, 0.1159)
    source: tuple[str, ...] = ()
    latents: Node = ("EmptySD3LatentImage", {})
    prompt: Node = ("CLIPTextEncode", {"text": PROMPT})
    more: Mapping[str, Node] = field(default_factory=dict)
    start: Link = ("latents", 0)
    told: Link = ("prompt", 0)
    padding: tuple[int, int] | None = None
    fps: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    swapped: tuple[str, ...] = ()
    kohya: bool = False
    dtype: torch.dtype = torch.bfloat16
    depths: tuple[Depths, ...] = ()

    def telling(self, kind: str, **inputs: Any) -> "ComfyUI":
        """The same with one more node, which adds to its input `conditioning` behind the prompt."""
        node = (kind, {"conditioning": self.told, **inputs})
        return replace(self, more={**self.more, "told": node}, told=("told", 0))

    @cached_property
    def _rules(self) -> list[tuple[re.Pattern[str], str]]:
        """Regular expressions of `names`, and what takes the place of what fits them."""
        rules = []
        for theirs, own in self.names.items():
            number = re.escape(theirs).replace(r"\*", r"(\d+)")
            first, *rest = own.split("*")
            filled = first + "".join(rf"\g<{i}>{each}" for i, each in enumerate(rest, 1))
            rules.append((re.compile(rf"(?:(?<=\.)|^){number}(?=\.|$)"), filled))
        return rules

    def own(self, name: str) -> tuple[str, int]:
        """ComfyUI's name of a module or weight, and its place among those of that name.

        Args:
            name: diffusers', in the backbone.
        """
        for place, (pattern, own) in enumerate(self._rules):
            renamed, found = pattern.subn(own, name, count=1)
            if found:
                return renamed, place
        return name, 0

    def swaps(self, name: str) -> bool:
        """Whether the halves of a module or weight change places."""
        return name.startswith(tuple(f"{each}." for each in self.swapped)) or name in self.swapped
