"""Qwen-Image-Edit, of one image and of several."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from PIL import Image
from torch import Tensor

from pipeline.config import TeacherConfig
from pipeline.models.network import Network
from tests.families.builder import PROMPTS, Builder, Call
from tests.families.builders.qwen import BUILDERS as QWEN_BUILDERS
from tests.families.builders.qwen import OfFrames, qwen
from tests.fixtures.prompt_images import picture, write_prompts
from tests.fixtures.tiny_parts import qwen_vl_processor

QWEN: Any = QWEN_BUILDERS["qwen"]
SMALL = """
import transformers
from importlib.util import find_spec
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint import calculate_dimensions
edit.calculate_dimensions = lambda area, *more, rule=calculate_dimensions: rule(area // 128, *more)
plus.calculate_dimensions = lambda *given, rule=edit.calculate_dimensions: rule(*given)[:2]
if find_spec("torchvision") is None:
    parts = ["image_processor", "tokenizer"]
    transformers.Qwen2VLProcessor.get_attributes = staticmethod(lambda kept=parts: kept)
"""
"""The pipelines bring images to about 96x96 pixels, not 1024x1024, of which a VAE takes seconds.
Without torchvision, which its reader of videos alone needs, transformers opens no processor."""


def edit(kind: Any) -> Callable[[], Any]:
    def make() -> Any:
        exec(SMALL, {})
        return kind(**{**qwen().components, **qwen_vl_processor(12)})

    return make


@dataclass(frozen=True, kw_only=True)
class Edit(OfFrames):
    """Its pipeline is called for each row alone, with the image in the row's own proportion.

    Args:
        count: Images of a prompt.
        row: The one that is made; None for both.
    """

    few: dict[str, Any] = field(default_factory=lambda: QWEN.few)
    settings: dict[str, Any] = field(default_factory=lambda: QWEN.settings)
    call: dict[str, Any] = field(default_factory=lambda: QWEN.call)
    wrong: dict[str, Any] = field(default_factory=lambda: QWEN.wrong)
    idle: tuple[str, ...] = QWEN.idle
    imports: tuple[str, ...] = (SMALL,)
    count: int = 1
    row: int | None = None

    def pictures(self, prompt: str) -> list[Image.Image]:
        return [picture(len(prompt) + each, 240, 240) for each in range(self.count)]

    def teacher(self, folder: Path, prompts: Path) -> TeacherConfig:
        file = prompts.with_name(f"{self.count}.prompts")
        write_prompts(file, [(prompt, self.pictures(prompt)) for prompt in PROMPTS])
        return super().teacher(folder, file)

    def noise(self, count: int = 2) -> Tensor:
        made = super().noise(count)
        return made if self.row is None else made[self.row : self.row + 1]

    def unpack(self, latents: Tensor) -> Tensor:
        made = self.space[0] * self.space[1] // 4
        shape = (len(latents), self.space[0] // 2, self.space[1] // 2, self.channels, 2, 2)
        return latents[:, :made].reshape(shape).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def alone(self) -> "list[Edit]":
        assert self.labels is not None
        return [replace(self, row=row) for row in range(len(self.labels))]

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        assert self.labels is not None and self.row is not None
        _, settings = super().arguments(guidance)
        prompt, space = PROMPTS[self.labels[self.row]], self.space
        images = []
        for each in self.pictures(prompt):
            wide = min(each.width, each.height * space[1] // space[0])
            high = min(each.height, each.width * space[0] // space[1])
            left, top = (each.width - wide) // 2, (each.height - high) // 2
            images.append(each.crop((left, top, left + wide, top + high)))
        return images if self.count > 1 else images[0], {**settings, "prompt": prompt}

    def called(self, pipe: Any, steps: int, guidance: float, output: str, **more: Any) -> Tensor:
        if self.row is not None:
            return super().called(pipe, steps, guidance, output, **more)
        if "negative_prompt" in more:
            more["negative_prompt"] = more["negative_prompt"][0]
        rows = (each.called(pipe, steps, guidance, output, **more) for each in self.alone())
        return torch.cat([*rows])

    def calls(self, pipe: Any, teacher: Network, steps: int) -> list[Call]:
        if self.row is not None:
            return super().calls(pipe, teacher, steps)
        rows = zip(*(each.calls(pipe, teacher, steps) for each in self.alone()), strict=True)
        return [
            Call(
                row[0].time, *(torch.cat(each) for each in zip(*(c[1:] for c in row), strict=True))
            )
            for row in rows
        ]

    def stranger(self, student: Network) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [call for each in self.alone() for call in super(Edit, each).stranger(student)]


BUILDERS: dict[str, Builder] = {
    "qwen-edit": Edit(family="qwen-edit", make=edit(QwenImageEditPipeline)),
    "qwen-edit-plus": Edit(family="qwen-edit-plus", make=edit(QwenImageEditPlusPipeline), count=2),
}
