"""What networks on latents share: a VAE, a pipeline of diffusers, and prompts."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import Flow, Schedule
from pipeline.models.condition import Prompts
from pipeline.models.network import Network
from pipeline.models.schedulers import student_scheduler
from pipeline.models.vae import VAE
from pipeline.utils.errors import UserError

_BLOCKS = ("transformer_blocks", "single_transformer_blocks")
"""Lists of a transformer's blocks, in their order."""


class FrozenPipeline:
    """A pipeline of diffusers without its backbone: all that copies of a network share.

    Args:
        pipe: The pipeline.
        flags: What it was made with beside its components.
    """

    def __init__(self, pipe: DiffusionPipeline, flags: dict[str, Any]) -> None:
        self.pipe, self.flags = pipe, flags
        for name, part in pipe.components.items():
            if name.startswith("text_encoder") and part is not None:
                part.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenPipeline":
        return self


class LatentNetwork(Network):
    """A backbone on the latents of a VAE, called as its pipeline of diffusers calls it.

    Labels are the numbers of prompts; none is the negative prompt.

    Args:
        backbone, schedule, prediction: As `Network`.
        pipe: The pipeline it came with, its backbone taken out.
        size: Height and width of images, in pixels.
        prompts: What the labels stand for.
        negative: The negative prompt.
        flags: What the pipeline was made with beside its components.

    Attributes:
        embedded_guidance: Guidance as an input, for a backbone that has one.
    """

    latents: VAE
    part = "transformer"
    embedded_guidance: float | None = None
    spacing: ClassVar[str | None] = None
    """Of flow's times, where the pipeline has its own and not the scheduler's."""
    call_defaults: ClassVar[dict[str, Any]] = {}
    """To the pipeline in every call, where its habit is not that of `encode`."""
    patch: ClassVar[int] = 1
    """Latents to an input of the backbone, in height and in width."""

    def __init__(
        self,
        backbone: Any,
        schedule: Schedule,
        prediction: str,
        pipe: DiffusionPipeline,
        size: int,
        prompts: list[str],
        negative: str,
        flags: dict[str, Any],
    ) -> None:
        latents = VAE(pipe.vae)
        side = size // latents.factor
        super().__init__(backbone, schedule, prediction, (self.channels(backbone), side, side))
        self.latents, self.frozen, self.size = latents, FrozenPipeline(pipe, flags), size
        self.conditioner = Prompts(
            prompts, negative, partial(self._encode, pipe), self.guidable(backbone)
        )

    @staticmethod
    def channels(backbone: Any) -> int:
        """Of a latent."""
        return int(backbone.config.in_channels)

    @staticmethod
    def guidable(backbone: Any) -> bool:
        """Whether the backbone knows no condition, so that it can be guided."""
        return True

    @classmethod
    def own_side(cls, backbone: Any) -> int:
        """Height and width of the latents that the backbone was trained on."""
        return int(backbone.config.sample_size)

    @classmethod
    def tokens(cls, backbone: Any, vae: Any, size: int) -> int:
        """Of an image of so many pixels in height and in width."""
        return (size // VAE(vae).factor // cls._unit(backbone)) ** 2

    @classmethod
    def _unit(cls, backbone: Any) -> int:
        """Latents to a token, in height and in width."""
        return cls.patch * int(getattr(backbone.config, "patch_size", None) or 1)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        """What the pipeline makes of prompts; `negative` says that they are the negative one."""
        raise NotImplementedError

    @classmethod
    def _encode(
        cls, pipe: Any, texts: list[str], negative: bool, device: torch.device
    ) -> Condition:
        for name, part in pipe.components.items():
            if name.startswith("text_encoder") and part is not None:
                part.to(device)
        return cls.encode(pipe, texts, negative, device)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict x0; see `Denoiser.forward`."""
        output = self.predict(x_t, t.expand(len(x_t)), condition)
        return self.read(output[:, : x_t.shape[1]], x_t, t)  # some predict a variance too

    def position(self, t: Tensor) -> Tensor:
        """Flow time in [0, 1] as a position in the table of training steps."""
        assert isinstance(self.schedule, Flow)
        position = t * self.schedule.steps_table
        return position.floor() if self.schedule.spacing == "multistep" else position

    def decode(self, x0: Tensor) -> Tensor:
        """The VAE's images of latents."""
        return self.latents.decode(x0)

    def pipeline(self) -> DiffusionPipeline:
        """Its own, with a scheduler that takes the student's steps, the last one to x0 itself."""
        pipe = self.frozen.pipe
        scheduler = student_scheduler(pipe.scheduler.config, self.sampler)
        parts = {**pipe.components, self.part: self.backbone, "scheduler": scheduler}
        made = type(pipe)(**parts, **self.frozen.flags)
        made.register_to_config(**self.frozen.flags)
        return made

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline that are no components, from its `model_index.json`."""
        return {}

    def stages(self) -> list[str]:
        if self.part == "unet":
            return super().stages()
        blocks = {name: getattr(self.backbone, name, ()) for name in _BLOCKS}
        return [
            f"{self.part}.{name}.{i}" for name, each in blocks.items() for i in range(len(each))
        ]

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        if self.part == "unet":
            return super().up_to(stage)
        _, last, number = stage.split(".")
        parts: dict[str, nn.Module] = {}
        for name in _BLOCKS[_BLOCKS.index(last) :]:
            if blocks := getattr(self.backbone, name, None):
                kept = blocks[: int(number) + 1] if name == last else []
                parts[f"{self.part}.{name}"] = nn.ModuleList(kept)
        return parts

    @property
    def settings(self) -> dict[str, Any] | None:
        """As `Network.settings`; with the images' size, where it is not the model's own."""
        times, taken = self.sampler.timesteps, inspect.signature(type(self.frozen.pipe).__call__)
        steps = super().settings
        if steps is None and isinstance(self.schedule, Flow):
            steps = {"sigmas": list(times)}
        elif steps is None and self.sampler.renoise and "timesteps" in taken.parameters:
            steps = {"timesteps": [int(time) for time in times]}
        if steps is None:
            return None
        settings = steps | self.call_defaults
        if self.size != self.own_side(self.backbone) * self.latents.factor:
            settings |= {"height": self.size, "width": self.size}
            if "use_resolution_binning" in taken.parameters:  # it would make another size of it
                settings["use_resolution_binning"] = False
        return settings


def image_size(kind: type[LatentNetwork], backbone: Any, vae: Any, wanted: int | None) -> int:
    """Height and width of images, in pixels: those wanted, or else the model's own.

    Raises:
        UserError: If its latents or patches do not fit into images of this size.
    """
    factor = VAE(vae).factor
    if wanted is None:
        return kind.own_side(backbone) * factor
    unit = factor * kind._unit(backbone)
    if wanted % unit:
        raise UserError(
            f"teacher.image_size: {wanted} is no multiple of {unit}, a patch of this model"
        )
    return wanted
