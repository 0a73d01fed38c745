"""Wan's image-to-video: 2.1, 2.2 A14B and 2.2 TI2V 5B."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from pipeline.config import TeacherConfig
from pipeline.models.network import Network
from tests.families.builder import PROMPTS, Builder, Call, OnVideos
from tests.families.builders.sd3 import DDIM
from tests.families.builders.wan import AT_BOTH, experts, small, transformer, unipc
from tests.fixtures.prompt_images import picture, write_prompts

CHANNELS = 2 * 4 + 2
"""Of latents, of those of an image, and of a mask."""


FTFY = """
from importlib.util import find_spec
from types import SimpleNamespace
from diffusers.pipelines.wan import pipeline_wan_i2v
if find_spec("ftfy") is None:
    pipeline_wan_i2v.ftfy = SimpleNamespace(fix_text=str)
"""
"""The pipeline needs a package that leaves plain prompts as they are."""


def clip() -> dict[str, Any]:
    """What sees images, in four patches and a class token."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    side = {"height": 16, "width": 16}
    reader = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side)
    return {"image_encoder": CLIPVisionModel(config), "image_processor": reader}


def on_images(make: Callable[[], Any], sees: bool = False) -> Callable[[], Any]:
    """The pipeline of such a model, whose networks take what an image adds."""

    def made() -> Any:
        exec(FTFY, {})
        whole = make()
        parts, flags = whole.components, whole.config
        seen = {"image_dim": 16, "added_kv_proj_dim": 24} if sees else {}
        if not flags["expand_timesteps"]:
            names = [each for each in ("transformer", "transformer_2") if parts[each]]
            parts |= {each: transformer(in_channels=CHANNELS, **seen) for each in names}
        told = {name: flags[name] for name in ("boundary_ratio", "expand_timesteps")}
        return WanImageToVideoPipeline(**{**parts, **(clip() if sees else {}), **told})

    return made


@dataclass(frozen=True, kw_only=True)
class FromImage(OnVideos):
    """Its pipeline takes one image: it is called for each row alone.

    Args:
        begins: Whether the image's latents are the first ones of a video.
        row: The one that is made; None for both.
    """

    sizes: tuple[tuple[int, ...], ...] = ((5, 32, 16), (9, 16, 48))  # a VAE encodes by fours
    imports: tuple[str, ...] = (FTFY,)
    begins: bool = False
    row: int | None = None

    def picture(self, prompt: str) -> Image.Image:
        return picture(len(prompt), 96, 96)

    def teacher(self, folder: Path, prompts: Path) -> TeacherConfig:
        file = prompts.with_name("begun.prompts")
        write_prompts(file, [(prompt, [self.picture(prompt)]) for prompt in PROMPTS])
        return super().teacher(folder, file)

    def noise(self, count: int = 2) -> Tensor:
        made = super().noise(count)
        return made if self.row is None else made[self.row : self.row + 1]

    def alone(self) -> "list[FromImage]":
        return [replace(self, row=row) for row in range(2)]

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        assert self.labels is not None and self.row is not None
        _, settings = super().arguments(guidance)
        prompt, (height, width) = PROMPTS[self.labels[self.row]], self.space[1:]
        whole = self.picture(prompt)
        wide, high = (
            min(96, 96 * one // other) for one, other in ((width, height), (height, width))
        )
        left, top = (96 - wide) // 2, (96 - high) // 2
        image = whole.crop((left, top, left + wide, top + high))
        return image, {**settings, "prompt": prompt}

    def called(self, pipe: Any, steps: int, guidance: float, output: str, **more: Any) -> Tensor:
        if self.row is not None:
            return super().called(pipe, steps, guidance, output, **more)
        more |= {"negative_prompt": more.get("negative_prompt", [""])[0]}
        rows = (each.called(pipe, steps, guidance, output, **more) for each in self.alone())
        return torch.cat([*rows])

    def calls(self, pipe: Any, teacher: Network, steps: int) -> list[Call]:
        if self.row is not None:
            return super().calls(pipe, teacher, steps)
        rows = zip(*(each.calls(pipe, teacher, steps) for each in self.alone()), strict=True)
        return [
            Call(row[0].time, *(torch.cat(each) for each in list(zip(*row, strict=True))[1:]))
            for row in rows
        ]

    def unpack(self, latents: Tensor) -> Tensor:
        return latents[:, : self.channels]

    def _read(self, scheduler: Any, x_t: Tensor, out: Tensor, step: int) -> tuple:
        time, x_t, x0 = super()._read(scheduler, x_t, out, step)
        if self.begins:
            x0[:, :, :1] = x_t[:, :, :1]
        return time, x_t, x0

    def stranger(self, student: Network) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [call for each in self.alone() for call in super(FromImage, each).stranger(student)]


BUILDERS: dict[str, Builder] = {
    "wan-image": FromImage(
        family="wan-image",
        make=on_images(unipc, sees=True),
        few={"renoise": ((1.0, 0.757, 0.522), True)},
        wrong=DDIM,
    ),
    "wan-image-experts": FromImage(
        family="wan-image-experts",
        make=on_images(experts),
        few=AT_BOTH,
        wrong=DDIM,
    ),
    "wan-image-small": replace(
        FromImage(
            family="wan-image", make=on_images(small), pixels=4, begins=True, wrong=DDIM
        ).sized(5, 32, 32),
        sizes=((3, 64, 32), (7, 32, 96)),
    ),
}
