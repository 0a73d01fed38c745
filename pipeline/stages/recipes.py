"""The recipes that are shipped: of which teacher each is, what it needs, and which GPUs it fits."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Config, settings_yaml
from pipeline.methods.recipe import Recipe
from pipeline.models.denoiser import Denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.from_scratch.parts import (
    new_autoencoder,
    new_pipeline,
    new_text_encoder,
    new_text_unet,
)
from pipeline.models.from_scratch.tokenizer import whole_tokenizer
from pipeline.models.loading import load_teacher
from pipeline.models.released import Released, released_teacher
from pipeline.stages.to_do import encodes
from pipeline.training.flops import planned_flops
from pipeline.training.memory import CONTEXT, GIB, WORKSPACE, footprint
from pipeline.training.peaks import PEAKS, USUAL
from pipeline.utils.errors import UserError

CARDS = {24: 23.6, 80: 79.1, 141: 139.7}
"""GB that a GPU is sold with -> GiB that PyTorch finds (RTX 4090, H100, H200)."""
_CLASSES = 10
"""Of the image sets that small teachers learn from."""


@dataclass(frozen=True)
class Shipped:
    """A recipe.

    Attributes:
        name: Of its file.
        settings: What is in it.
    """

    name: str
    settings: dict[str, Any]

    @cached_property
    def config(self) -> Config:
        """All settings."""
        return Config.model_validate(self.settings)

    @property
    def teacher(self) -> str:
        """Name of the folder or file on the Hub, or what it learns from here."""
        config = self.config
        if config.teacher.kind == "gaussian":
            return "analytic"
        if config.data.name:
            return f"trained on {config.data.name}"
        return Path(config.teacher.file or config.teacher.output).name

    @property
    def student(self) -> str:
        """Its steps, and what learns."""
        student = self.config.distill.student
        steps = len(student.times or (None,))
        return f"{steps} step{'s' * (steps > 1)}, {'LoRA' if student.lora.rank else 'all weights'}"

    @property
    def needs(self) -> str:
        """What is given or made before it trains."""
        config, distill = self.config, self.config.distill
        pairs = Recipe.of(distill).needs.pairs
        found = {
            "prompts": config.teacher.prompts and config.data.name is None,
            f"{config.pairs.count:,} pairs": pairs,
            "real images": encodes(distill),
            "LPIPS": pairs and distill.regression.distance == "lpips",
        }
        return ", ".join(name for name, wanted in found.items() if wanted) or "no data"

    @property
    def workers(self) -> str:
        """How many, at least and at most."""
        workers = self.config.distill.workers
        return f"{workers.min} to {workers.max} {'GPUs' if workers.gpus else 'CPU cores'}"

    @property
    def bytes(self) -> int:
        """What one of them holds, without PyTorch's workspace; raises as `fits`."""
        return self._tensors + (CONTEXT if self.config.distill.workers.gpus else 0)

    def fits(self, card: int) -> bool:
        """Whether the doctor would let one of them on a GPU of so many GB, of `CARDS`.

        Raises:
            UserError: If weights of a perceptual distance are not installed.
        """
        return self._tensors * (1 + WORKSPACE) + CONTEXT <= CARDS[card] * GIB

    @property
    def hours(self) -> str:
        """What its steps take of H100s together, or nothing of a recipe for CPUs."""
        distill = self.config.distill
        if not distill.workers.gpus:
            return ""
        flops = planned_flops(
            distill, self.config.network, self.config.seed, self.config.pairs.guidance, self._model
        )
        most = PEAKS["H100"].bf16 * 1e12
        return "not counted" if flops is None else f"{flops.run / (USUAL * most) / 3600:,.0f}"

    @property
    def row(self) -> str:
        """All of it as a row of a table; what cannot be counted is told in its place."""
        row = [self.teacher, f"`{self.name}`", self.student, self.needs, self.workers, self.hours]
        try:
            row += [f"{self.bytes / GIB:.1f}"]
            row += ["yes" if self.fits(card) else "no" for card in CARDS]
        except UserError as error:
            row += [str(error)]
        return f"| {' | '.join(row)} |"

    @cached_property
    def _tensors(self) -> int:
        teacher = self._model
        with torch.device("meta"):
            return footprint(self.config, teacher, self.config.distill.workers.min).total

    @cached_property
    def _model(self) -> Denoiser:
        """The teacher in its shapes."""
        config = self.config
        if config.teacher.kind == "gaussian":
            return load_teacher(config.teacher)
        if config.data.name == "captions":
            return self._text_model()
        if config.data.name:
            return new_unet(config.network, config.shape, _CLASSES, config.seed)
        found = released_teacher(config.teacher)
        assert found is not None, f"{self.teacher} is not among pipeline/models/released.py's"
        return found

    def _text_model(self) -> Denoiser:
        """As jobs/teacher.py makes it of images with captions, but with all words of CLIP."""
        config, text = self.config, self.config.teacher.training.text
        coder, seed, words = text.autoencoder, config.seed, whole_tokenizer()
        words.model_max_length = 77
        side = config.data.size >> (len(coder.channels) - 1)
        pipe = new_pipeline(
            new_autoencoder(coder, config.data.size, seed),
            new_text_encoder(text, words, seed),
            words,
            new_text_unet(config.network, text, (coder.latent_channels, side, side), seed),
        )
        return Released("sd", lambda: pipe, text.width, tokens=77).teacher(config.teacher)


def list_recipes(_: object = None) -> None:
    """Print every recipe with its teacher, its needs and the GPUs that it fits, as a table."""
    head = ["teacher", "recipe", "student", "needs", "workers", "H100 hours", "GiB on each"]
    head += [f"{card} GB" for card in CARDS]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for recipe in shipped():
        print(recipe.row, flush=True)


def shipped() -> Iterator[Shipped]:
    """All recipes, those of a teacher together."""
    files = settings_yaml.shipped().glob("*.yaml")
    found = [Shipped(file.stem, settings_yaml.read(str(file))) for file in files]
    yield from sorted(found, key=lambda each: (each.teacher, each.name))
