"""What networks on latents share: a VAE, a pipeline of diffusers, and prompts."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import diffusers
from torch import Tensor, nn

from pipeline.config import TeacherConfig
from pipeline.diffusion.buckets import Buckets, Shape
from pipeline.diffusion.condition import Condition, Conditioner
from pipeline.diffusion.noise import EDM, VP, Flow, Schedule
from pipeline.models.even_steps import are_even
from pipeline.models.family import refuse
from pipeline.models.folder import ModelFolder, load_parts, need_package, need_parts, size_problem
from pipeline.models.frozen_pipeline import FrozenPipeline
from pipeline.models.prompted_network import PromptedNetwork
from pipeline.models.schedulers import completed, read_scheduler
from pipeline.models.student_scheduler import student_scheduler
from pipeline.models.vae import VAE
from pipeline.models.views import view
from pipeline.utils.errors import UserError


class LatentNetwork(PromptedNetwork):
    """A backbone on the latents of a VAE, called as its pipeline of diffusers calls it.

    Labels are the numbers of prompts; none is the negative prompt.

    Args:
        backbone, schedule, prediction: As `PromptedNetwork`.
        frozen: The pipeline it came with, its backbone taken out.
        size: Of images or videos, in pixels: a number for each of `axes`.
        teacher: Prompts, guidance and sizes to learn at.

    Attributes:
        size: Of `shape`, in pixels.
        embedded_guidance: Guidance as an input, for a backbone that has one.
        call_defaults: To the pipeline in every call, where its habit is not that of `encode`.
        call_at_size: To the pipeline for images of another size than the model's own.
        vaes: Classes of VAEs that the pipeline takes.
        shifts_by_size: Whether the pipeline tells its scheduler a shift that follows the size.
        optional: Components that a folder may lack.
        pipeline_spacing: Of a flow's times, where the pipeline names them itself.
        names_flow_sigmas: Whether it does so too where the scheduler has `use_flow_sigmas`.
    """

    latents: VAE
    call_defaults: ClassVar[dict[str, Any]] = {}
    call_at_size: ClassVar[dict[str, Any]] = {}
    vaes: ClassVar[tuple[str, ...]] = ("AutoencoderKL", "AutoencoderTiny")
    shifts_by_size: ClassVar[bool] = False
    optional: ClassVar[frozenset[str]] = frozenset()
    pipeline_spacing: ClassVar[str | None] = None
    names_flow_sigmas: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Any,
        schedule: Schedule,
        prediction: str,
        frozen: FrozenPipeline,
        size: tuple[int, ...],
        teacher: TeacherConfig,
    ) -> None:
        shape = self.shape_for(backbone, frozen.vae, size)
        super().__init__(backbone, schedule, prediction, shape)
        self.latents, self.frozen = frozen.vae, frozen
        self._schedules: dict[int, Schedule] = {}
        if teacher.buckets:
            self.own_buckets = self.buckets_for(backbone, frozen.vae, teacher)
        self.embedded_guidance = teacher.embedded_guidance
        self.conditioner = self.prompts_of(frozen, backbone, teacher)

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        for part in sorted(cls.required(folder) - cls.optional):
            if folder.index.get(part) in (None, [None, None]):
                return f"its model_index.json has no {part}"
        match folder.index["vae"]:
            case ["diffusers" | "transformers", str(kind)] if kind not in cls.vaes:
                return f"its vae is {kind}, not {' or '.join(cls.vaes)}: copy the model's own there"
        return size_problem(folder.sample_size)

    @classmethod
    def load(
        cls,
        folder: ModelFolder | None,
        teacher: TeacherConfig,
        conditioner: Conditioner | None = None,
    ) -> "LatentNetwork":
        """As `Family.load`; with a conditioner of its own it needs no text encoders."""
        assert folder is not None
        if any(part.startswith("text_encoder") for part in folder.index):
            need_package("transformers", folder.path)
        cls.check_noise(folder, *cls.read_schedule(folder.scheduler, tokens=1))
        need_parts(folder.path, folder.index, cls.required(folder))
        parts = load_parts(folder.path, folder.index, {*cls.backbone_parts(), "scheduler"})
        backbone = cls.take_backbone(folder, parts, cls.flags(folder.index))
        frozen = cls.load_frozen(folder, backbone, encoders=conditioner is None)
        vae = frozen.vae
        cls.check_sizes(folder, backbone, vae, teacher)
        size = cls.size_for(backbone, vae, teacher.picture_size)
        tokens = cls.tokens(backbone, cls.shape_for(backbone, vae, size))
        schedule, prediction = cls.read_schedule(frozen.scheduler, tokens)
        made = cls(backbone, schedule, prediction, frozen, size, teacher)
        return made if conditioner is None else made.with_conditioner(conditioner)

    @classmethod
    def check_sizes(
        cls, folder: ModelFolder, backbone: Any, vae: VAE, teacher: TeacherConfig
    ) -> None:
        """See that VAE and sizes fit the network; of it the `config` is enough.

        Raises:
            UserError: If they do not.
        """
        if (takes := cls.channels(backbone)) != (has := vae.channels):
            refuse(folder, f"its network takes {takes} channels of latents, its VAE makes {has}")
        fixed = "height" not in _arguments(getattr(diffusers, folder.pipeline))
        own = cls.own_size(backbone, vae)
        setting = "teacher.buckets" if teacher.buckets else "teacher.image_size"
        for wanted in teacher.sizes or (teacher.image_size,):
            if cls.size_for(backbone, vae, wanted, setting) != own and fixed:
                raise UserError(
                    f"{setting}: {wanted} is not {own[0]}, the one size of a {folder.pipeline}; "
                    "give null"
                )

    @classmethod
    def buckets_for(cls, backbone: Any, vae: VAE, teacher: TeacherConfig) -> Buckets:
        """The shapes of latents that settings name, or else its own."""
        wanted = teacher.sizes or (teacher.image_size,)
        sizes = (cls.size_for(backbone, vae, each) for each in wanted)
        shapes = tuple(cls.shape_for(backbone, vae, each) for each in sizes)
        return Buckets(shapes, tuple(each.weight for each in teacher.buckets) or (1,))

    @staticmethod
    def classes_of(backbone: Any) -> int | None:
        """Number of its classes; None where prompts stand in their place."""
        return None

    @classmethod
    def take_backbone(
        cls, folder: ModelFolder, parts: dict[str, Any], flags: Mapping[str, Any]
    ) -> Any:
        """Its backbone, of `backbone_parts` and the scheduler, which are taken out of `parts`."""
        return parts.pop(cls.part)

    @classmethod
    def read_schedule(cls, config: Mapping[str, Any], tokens: int) -> tuple[Schedule, str]:
        """Noise schedule and prediction, from `scheduler_config.json` and an image's tokens."""
        schedule, prediction = read_scheduler(config, tokens if cls.shifts_by_size else None)
        if isinstance(schedule, EDM):
            schedule = replace(schedule, image_variance=1.0)
        if cls.pipeline_spacing and isinstance(schedule, Flow):
            if not schedule.whole:
                schedule = replace(schedule, spacing=cls.pipeline_spacing)
            elif cls.names_flow_sigmas and schedule.spacing == "unipc":
                schedule = replace(schedule, spacing=f"unipc-{cls.pipeline_spacing}")
        return schedule, prediction

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict x0, of samples of any shape that fits; see `Denoiser.forward`."""
        t, network = t.expand(len(x_t)), self.at(tuple(x_t.shape[1:]))
        output = network.output(x_t, t, condition)
        return network.read(output[:, : x_t.shape[1]], x_t, t)  # some predict a variance too

    def at(self, shape: Shape) -> Self:
        if shape == self.shape:
            return self
        told = view(self, {})
        told.shape = shape
        if self.shifts_by_size:
            told.schedule = self._schedule_at(self.tokens(self.backbone, shape))
        return told

    def _schedule_at(self, tokens: int) -> Schedule:
        """Of samples of so many tokens; read once, for every call of the network asks."""
        if tokens not in self._schedules:
            self._schedules[tokens], _ = self.read_schedule(self.frozen.scheduler, tokens)
        return self._schedules[tokens]

    @property
    def size(self) -> tuple[int, ...]:
        """In pixels, a number for each of `axes`."""
        return self.latents.pixels(self.shape)[1:]

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        scaled, told = super().inputs(x_t, t)
        if isinstance(self.schedule, Flow) and self.schedule.whole:
            told = self.position(t) / self.schedule.steps_table
        return scaled, told

    def position(self, t: Tensor) -> Tensor:
        """Flow time in [0, 1] as a position in the table of training steps."""
        assert isinstance(self.schedule, Flow)
        position = t * self.schedule.steps_table
        if not self.schedule.whole:
            return position
        return (position + 1e-4).floor()  # in float32 a multiple may lie a little lower

    def with_guidance(self, scale: float | None) -> "LatentNetwork":
        if scale is None:
            return self
        told = view(self, {})
        told.embedded_guidance = scale
        return told

    @property
    def scheduler(self) -> dict[str, Any]:
        """The `scheduler_config.json` that it came with, `completed`."""
        return completed(self.frozen.scheduler)

    @property
    def frozen_parts(self) -> list[nn.Module]:
        return [self.latents.vae, *self.frozen.text_encoders]

    def decode(self, x0: Tensor) -> Tensor:
        """The VAE's images of latents."""
        return self.latents.decode(x0)

    def pipeline(self) -> "diffusers.DiffusionPipeline":
        """Its own, with a scheduler that takes the student's steps, the last one to x0 itself."""
        pipe = self.frozen.pipe
        trailing = self.pipeline_spacing == "trailing"
        scheduler = student_scheduler(self.scheduler, self.sampler, self._takes("sigmas"), trailing)
        networks = {name.rpartition(".")[2]: each for name, each in self.networks.items()}
        parts = {**pipe.components, **networks, "scheduler": scheduler}
        made = type(pipe)(**parts, **self.frozen.flags)
        made.register_to_config(**self.frozen.flags)
        return made

    @property
    def call_settings(self) -> dict[str, Any] | None:
        """As `Network.call_settings`; with the images' size, where it is not the model's own."""
        times, steps = self.sampler.timesteps, super().call_settings
        if steps is None and isinstance(self.schedule, Flow):
            if self._takes("sigmas"):
                steps = {"sigmas": list(times)}
            elif are_even(times, self.schedule.steps_table, self.pipeline_spacing == "trailing"):
                steps = {"num_inference_steps": len(times)}
        elif steps is None and self._takes("timesteps") and isinstance(self.schedule, VP):
            steps = {"timesteps": [int(time) for time in times]} if self.sampler.renoise else None
        if steps is None:
            return None
        settings = steps | self.call_defaults
        if self.size != self.own_size(self.backbone, self.latents):
            settings |= dict(zip(self.axes, self.size, strict=True)) | self.call_at_size
        return settings

    def _takes(self, argument: str) -> bool:
        """Whether the pipeline's call has an argument."""
        return argument in _arguments(type(self.frozen.pipe))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Such as the largest encoder of Stable Diffusion 3."""
        parts = self.frozen.pipe.components.items()
        return tuple(name for name, part in parts if part is None and name in self.frozen.required)

    def usage(self) -> list[str]:
        return [self._usage('"a photo of a cat"')]

    def _usage(self, condition: str, scale: float = 1.0) -> str:
        """One line, of an input in Python and the guidance that the pipeline shall apply."""
        return f"images = student({condition}, {self._arguments()}, guidance_scale={scale}).images"


def _arguments(pipeline: type) -> Mapping[str, inspect.Parameter]:
    """Of a pipeline's call."""
    return inspect.signature(pipeline.__call__).parameters
